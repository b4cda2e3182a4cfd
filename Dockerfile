# The environment of all jobs. Generated from requirements.lock by envs/from_lock.py.
# The image holds no copy of the workflow: mount a checkout and run snakemake in it (docs/containers.md).
FROM python:3.13-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv==0.13.8"
COPY requirements.lock /opt/fineclip/requirements.lock
RUN uv pip install --system --no-cache --constraint /opt/fineclip/requirements.lock \
    "hanta==1.2.1" \
    "huggingface-hub==2.4.0" \
    "jinja2==3.1.6" \
    "numpy==2.4.6 ; python_full_version < '3.12'" \
    "numpy==2.5.5 ; python_full_version >= '3.12'" \
    "open-clip-torch==3.3.0" \
    "pandas==3.1.1" \
    "pillow==13.0.0" \
    "psutil==7.2.2" \
    "pyarrow==26.0.1" \
    "pydantic==2.14.3" \
    "pyyaml==6.0.3" \
    "safetensors==0.8.0" \
    "setuptools==84.2.1" \
    "simplejpeg==1.9.0" \
    "snakemake==9.27.1" \
    "tensorboard==2.21.0" \
    "timm==1.0.31" \
    "torch==2.15.0" \
    "torchvision==0.29.2" \
    "tqdm==4.70.1" \
    "transformers==5.23.0" \
    "typing-extensions==4.16.0" \
    "ultralytics==8.4.190" \
    "webdataset==1.0.2"
RUN printf '#!/bin/sh\nexec python -m fineclip "$@"\n' > /usr/local/bin/fineclip && chmod +x /usr/local/bin/fineclip
WORKDIR /work
CMD ["snakemake", "--help"]
