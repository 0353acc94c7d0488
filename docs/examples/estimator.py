"""Start a SageMaker training job that is served by, and feeds, a team's cache."""

import os

from sagemaker.pytorch import PyTorch

estimator = PyTorch(
    image_uri="ACCOUNT.dkr.ecr.REGION.amazonaws.com/train:1",
    entry_point="start.py",
    source_dir="src",
    role="arn:aws:iam::ACCOUNT:role/SageMakerTraining",
    instance_type="ml.trn1.32xlarge",
    instance_count=2,
    environment={
        "CUSTOM_CACHE_REPO": "acme/neuron-cache",
        "HF_TOKEN": os.environ["HF_TOKEN"],
        "NEURON_CC_FLAGS": "--model-type=transformer",
    },
)
estimator.fit()
