# imgcls on NVIDIA GPUs: docker build -f containers/cuda.Dockerfile -t imgcls:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD:/project" imgcls:cuda train model=resnet50 data=imagenet data.root=/project/imagenet
# torch's packages bring CUDA; of the machine the container takes the driver alone.
FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv>=0.8,<1"
WORKDIR /src
COPY . .
RUN uv pip install --system --no-cache .
WORKDIR /project
ENTRYPOINT ["imgcls"]
CMD ["--help"]
