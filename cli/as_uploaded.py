"""`neuron-store show --as-uploaded`: exactly what a remote would get of a result, to see that nothing private is in it."""

import json
import os

from neuron_store.cli import presentation
from neuron_store.shim.settings import Settings
from neuron_store.store.errors import CorruptEntry
from neuron_store.store.layout import Layout
from neuron_store.store.remotes.private_names import PrivateNames
from neuron_store.store.remotes.records import make_upload
from neuron_store.store.results import Result


def show_as_uploaded(layout: Layout, settings: Settings, result: Result, *, as_json: bool) -> None:
    """Print the record, and name the files that go with it. Raises NotUploadable, CorruptEntry."""
    names = PrivateNames.of_host(os.environ)
    try:
        upload = make_upload(layout, result, names, with_inputs=settings.upload_inputs)
    except CorruptEntry as error:
        raise CorruptEntry(f"the result {result.key} cannot be uploaded: {error}", error.path) from error
    record = upload.record
    text = (record.data or b"").decode()
    if as_json:
        files = [{"path": blob.path, "size": blob.size, "source": blob.source} for blob in upload.blobs]
        presentation.print_json({"path": record.path, "record": json.loads(text), "files": files})
        return
    presentation.write(text)
    presentation.remark(f"the record, {presentation.size(len(text.encode()))}, would be {record.path}")
    for blob in upload.blobs:
        presentation.remark(f"with it goes {blob.path}, {presentation.size(blob.size)}")
    if "origin" in result.provenance:
        presentation.remark(f"it came from {result.provenance['origin']}, so it is not queued for upload again")
