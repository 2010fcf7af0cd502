# imgcls on a CPU: docker build -f containers/cpu.Dockerfile -t imgcls:cpu .
#   docker run --rm -v "$PWD:/project" imgcls:cpu train model=resnet18
FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv>=0.8,<1"
WORKDIR /src
COPY . .
# torch without CUDA: 1 GB instead of 6.
RUN uv pip install --system --no-cache --torch-backend=cpu .
WORKDIR /project
ENTRYPOINT ["imgcls"]
CMD ["--help"]
