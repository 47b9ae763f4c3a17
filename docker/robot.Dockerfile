# The robot PC: Debian 12 with its ROS 1, the recorder and the deployer; the same steps as `make install`.
# Build from the repository root:  docker build -f docker/robot.Dockerfile -t aloha_kit/robot .
# Run beside the arms' drivers:    docker compose -f docker/compose.yaml run robot python -m aloha_kit.doctor --task …
FROM debian:12-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends make python3 ca-certificates
WORKDIR /opt/aloha_kit
COPY . .
RUN make install
# What a shell does in a checkout: . ./setup.sh
ENTRYPOINT ["bash", "-c", ". /opt/aloha_kit/setup.sh && exec \"$@\"", "bash"]
CMD ["python", "-m", "aloha_kit.doctor", "--help"]
