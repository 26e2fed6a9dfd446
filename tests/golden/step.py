"""`kelvin step` on the golden batch equals float64 PyTorch within the tolerances of data/train/README.md: in the order of
the file, backwards, in micro-batches of one sequence, on 1, 2 and 4 ranks, which agree bit for bit; and a bad batch is refused by the name of the place that is bad.
Usage: step.py BIN"""
import array, copy, json, math, os, subprocess, sys, tempfile

bin, data = sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


def tensors(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        body = file.read()
    header.pop("__metadata__", None)
    out = {}
    for name, item in header.items():
        assert item["dtype"] == "F32", (name, item["dtype"])
        out[name] = array.array("f", body[item["data_offsets"][0]:item["data_offsets"][1]])
    return out


def kelvin(batch, out, *words):
    path = out + ".json"
    with open(path, "w") as file:
        json.dump(batch, file)
    return subprocess.run([bin + "/kelvin", "step", "--model", data + "/qwen2", "--batch", path, "--out", out,
                           "--compute", "f32", *words], capture_output=True, text=True, timeout=60)


def distances(have, want):
    assert have.keys() == want.keys()
    return [abs(a - b) for name in want for a, b in zip(have[name], want[name], strict=True)]


def share(list, bound):
    return sum(d <= bound for d in list) / len(list)


def check(folder, batch, order, *words):
    out = folder + "/out"
    for updates in 1, 2:
        run = kelvin(batch, out, "--updates", str(updates), *words)
        assert run.returncode == 0, run.stderr
        loss = json.load(open(out + "/loss.json"))
        want = json.load(open(data + "/train/loss.json"))
        assert abs(loss["loss"] - want["loss"]) <= 1e-5
        assert abs(loss["grad_norm"] / want["grad_norm"] - 1) <= 1e-4
        assert abs(loss["clip_factor"] / want["clip_factor"] - 1) <= 1e-4
        for key in "block_tokens", "ratios_outside", "clipped_tokens":
            assert loss[key] == want[key], key
        assert all(abs(a - b) <= 1e-5 for a, b in zip(loss["block_loss"], want["block_loss"], strict=True))
        for k, list in enumerate(loss["logprobs"]):
            assert all(abs(a - b) <= 1e-4 for a, b in zip(list, want["logprobs"][order[k]], strict=True))
        grads, golden = tensors(out + "/grads.safetensors"), tensors(data + "/train/grads.safetensors")
        for name, values in golden.items():
            off = math.dist(grads[name], values) / math.hypot(*values)
            assert off <= 1e-4, (name, off)
        model = tensors(out + "/model.safetensors")
        if updates == 1:
            away = distances(model, tensors(data + "/train/after.safetensors"))
            assert share(away, 1e-6) >= 0.999 and max(away) <= 5e-4
        else:
            assert abs(loss["updates"][1]["loss"] - want["after_one_step"]["loss"]) <= 1e-4
            away = distances(model, tensors(data + "/train/after2.safetensors"))
            assert share(away, 1e-6) >= 0.5 and share(away, 5e-6) >= 0.99 and max(away) <= 1e-3


def refused(folder, batch, sentence, change, *words):
    bad = copy.deepcopy(batch)
    change(bad)
    run = kelvin(bad, folder + "/bad", *words)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and sentence in run.stderr, (sentence, run)
    assert not os.path.exists(folder + "/bad/model.safetensors")


with tempfile.TemporaryDirectory() as folder:
    batch = json.load(open(data + "/train/batch.json"))
    check(folder, batch, range(5))
    backwards = dict(batch, sequences=batch["sequences"][::-1])
    check(folder, backwards, range(4, -1, -1), "--micro-tokens", "1", "--threads", "2")

    bits = set()
    for ranks in "1", "2", "4":
        check(folder, batch, range(5), "--ranks", ranks, "--micro-tokens", "40")
        bits.add(tuple(open(folder + "/out/" + name, "rb").read() for name in ("model.safetensors", "grads.safetensors", "loss.json")))
    assert len(bits) == 1

    first = lambda b: b["sequences"][0]
    refused(folder, batch, "sequences[0].mask[12] must be 0 or 1", lambda b: first(b)["mask"].__setitem__(12, 2))
    refused(folder, batch, "sequences[0].mask[0] must be 0", lambda b: first(b)["mask"].__setitem__(0, 1))
    refused(folder, batch, "sequences[0].behaviour must be an array of 32", lambda b: first(b)["behaviour"].pop())
    refused(folder, batch, "sequences[0].behaviour[3] must be a log-prob", lambda b: first(b)["behaviour"].__setitem__(3, "x"))
    refused(folder, batch, "sequences[0].ids[1] is not a token id", lambda b: first(b)["ids"].__setitem__(1, -1))
    refused(folder, batch, "sequence 0: id 5000 is outside the vocabulary", lambda b: first(b)["ids"].__setitem__(1, 5000))
    refused(folder, batch, "sequences[0].advantage is missing", lambda b: first(b).pop("advantage"))
    refused(folder, batch, "sequences[0]: \"block\" is 3", lambda b: first(b).__setitem__("block", 3))
    refused(folder, batch, "\"clipp\" is not a member", lambda b: b.__setitem__("clipp", 0.1))
    refused(folder, batch, "lr must be a number", lambda b: b.__setitem__("lr", "big"))
    refused(folder, batch, "betas must be two numbers", lambda b: b.__setitem__("betas", [0.9]))
    refused(folder, batch, "sequences must be an array", lambda b: b.pop("sequences"))
    refused(folder, batch, "nothing is trained on", lambda b: [s.__setitem__("mask", [0] * len(s["mask"])) for s in b["sequences"]])
    refused(folder, batch, "--updates must be a whole number", lambda b: None, "--updates", "0")
    help = subprocess.run([bin + "/kelvin", "step", "--help"], capture_output=True, text=True)
    assert help.returncode == 0 and "--updates K" in help.stdout
