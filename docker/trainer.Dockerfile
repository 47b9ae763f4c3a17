# The training box: the same steps as `make install`, on Debian 12.
# Build from the repository root:  docker build -f docker/trainer.Dockerfile -t aloha_kit/trainer .
# Run on a GPU host:               docker compose -f docker/compose.yaml run trainer
FROM debian:12-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends make python3 ca-certificates
WORKDIR /opt/aloha_kit
COPY . .
RUN make install
ENV PATH=/opt/aloha_kit/.venv/bin:$PATH MUJOCO_GL=egl
ENTRYPOINT ["python", "-m"]
CMD ["aloha_kit.train", "--help"]
