# An image of one version of a function: a runtime, packages of the system, dependencies, code.
# The bootstrap of the runtime stays its command. `pratai function image NAME`.
ARG RUNTIME=pratai/python3.11
FROM ${RUNTIME}
ARG APT=""
RUN if [ -n "$APT" ]; then \
        set -e; \
        export DEBIAN_FRONTEND=noninteractive; \
        apt-get update -qq; \
        for name in $APT; do \
            apt-cache pkgnames "$name" | grep -qxF -e "$name" \
                || { echo "E: there is no package $name"; exit 1; }; \
        done; \
        apt-get install -y -qq --no-install-recommends $APT; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    fi
COPY layer /var/layer
COPY task /var/task
