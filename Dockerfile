# A worker, or any other command of mqworker. `docker build -t mqworker .`; docs/PRODUCTION.md says how to run it.
# CI has no Docker: tests hold what stands here against the code, nothing builds it.

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/mqworker
COPY . .
RUN /opt/mqworker/bin/pip install --no-cache-dir --constraint constraints.txt .


FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin mqworker
COPY --from=build /opt/mqworker /opt/mqworker
ENV PATH=/opt/mqworker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MQWORKER_LOG_JSON=1 \
    MQWORKER_PROBE_HOST=0.0.0.0 \
    MQWORKER_PROBE_PORT=9464
# Your application, where `--app bot:registry` looks for it: FROM this image, COPY bot.py ./
WORKDIR /app
USER 10001
EXPOSE 9464
# It drains: give it longer than MQWORKER_DRAIN_SECONDS before it is killed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["mqworker", "health"]
ENTRYPOINT ["mqworker"]
CMD ["worker"]
