"""The store of a cluster: everything durable in Elasticsearch. See docs/internals/elasticsearch.md.

The client library is an extra and imported when a store is made, never by importing this.
"""

from pratai.store.elasticsearch.store import ElasticsearchStore

__all__ = ["ElasticsearchStore"]
