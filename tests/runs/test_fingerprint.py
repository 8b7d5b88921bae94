"""A model's fingerprint is the same for a copy of its file, and another one for other weights."""

import shutil
from dataclasses import replace
from pathlib import Path

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.catalog.server import Server
from eftlocal.engine.spec import MemberSpec, Remote
from eftlocal.runs.fingerprint import fingerprint, models
from eftlocal.runtime import gguf
from eftlocal.runtime.remote.link import connect
from eftlocal.runtime.views import RAW, TRANSCRIPT, View
from tests.families import Family
from tests.runtime.remote.mirror import mirrored


def test_a_copy_has_the_same_fingerprint_and_other_weights_another(family: Family, tmp_path: Path) -> None:
    copy = Path(shutil.copy(family.base, tmp_path / "copy.gguf"))
    header = gguf.check(copy)
    first = fingerprint(header)
    assert first == fingerprint(gguf.check(family.base)) and len(first) == 16
    assert first not in (fingerprint(gguf.check(family.tuned)), fingerprint(gguf.check(family.reference)))
    data = bytearray(copy.read_bytes())
    data[header.tensors[-1].offset + 1] ^= 1  # changes one weight, and nothing in the header
    copy.write_bytes(data)
    assert fingerprint(gguf.check(copy)) != first


def test_members_are_told_by_name_with_their_adapters(family: Family) -> None:
    header = gguf.check(family.base)
    plain, adapted = MemberSpec("a (base)", header), MemberSpec("b (tuned)", header, lora=(family.lora, 0.5))
    raw, spoken = View(template=RAW, variables={}), View(template=TRANSCRIPT, variables={}, system="Be brief.")
    found = models([plain, adapted], [raw, spoken])
    base = {"file": family.base.name, "bytes": header.file_bytes, "fingerprint": fingerprint(header)}
    lora = gguf.read(family.lora)
    adapter = {"file": family.lora.name, "bytes": lora.file_bytes, "fingerprint": fingerprint(lora), "scale": 0.5}
    views = [entry.pop("view") for entry in found.values()]
    assert found == {"a (base)": base, "b (tuned)": {**base, "lora": adapter}}
    assert len(set(views)) == 2 and all(len(str(view)) == 16 for view in views)
    for other in (replace(raw, template=TRANSCRIPT), replace(raw, variables={"a": 1}), replace(raw, system="x")):
        assert models([plain], [other])["a (base)"]["view"] != views[0]


def test_the_workers_that_hold_a_model_do_not_make_it_another_one(family: Family) -> None:
    spec, raw = MemberSpec("a (base)", gguf.check(family.base)), View(template=RAW, variables={})
    assert models([replace(spec, rpc=(Endpoint("127.0.0.1", 1),))], [raw]) == models([spec], [raw])


def test_other_weights_of_the_same_name_on_a_server_are_another_model(family: Family) -> None:
    header, raw = gguf.check(family.base), View(template=RAW, variables={})
    with mirrored(family.base) as (server, mirror):

        def told() -> object:
            link = connect(Server(url=server.url))
            link.close()
            return models([MemberSpec("a (base)", header, remote=Remote(link, header))], [raw])

        first = told()
        assert told() == first
        mirror.meta["n_params"] = 2
        assert told() != first
