"""Give a training job a folder on FSx for Lustre, as the place where results come from and go to."""

from sagemaker.inputs import FileSystemInput

cache = FileSystemInput(
    file_system_id="fs-0123456789abcdef0",
    file_system_type="FSxLustre",
    directory_path="/MOUNTNAME/neuron-store",
    file_system_access_mode="rw",
)
# estimator.fit({"neuron_store": cache}), with this in its environment:
environment = {
    "NEURON_STORE_REMOTES": "file:///opt/ml/input/data/neuron_store",
    "HF_HUB_OFFLINE": "1",
}
