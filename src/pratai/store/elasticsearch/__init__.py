"""The store in an Elasticsearch cluster; `store.py` is its face."""
