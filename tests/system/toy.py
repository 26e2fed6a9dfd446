"""What the tests with real processes play with: a model of random weights, which cannot propose, and seed tasks."""
import json
import subprocess


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_inputs(binaries, folder, config):
    """Writes FOLDER/model, FOLDER/seeds.jsonl and FOLDER/config.yaml, which is `config` with the first two in front."""
    subprocess.run([f"{binaries}/toy_model", f"{folder}/model"], check=True)
    lines = []
    for i in range(1, 9):
        lines.append({"snippet": f"def f(a):\n    return a + {i}", "input": f"{i}", "output": f"{2 * i}", "imports": []})
        lines.append({"snippet": f"def f(a):\n    return a * {i}", "inputs": ["1", "2", "3", "4"],
                      "outputs": [str(i * n) for n in (1, 2, 3, 4)], "message": "multiply", "imports": []})
    write(f"{folder}/seeds.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(f"{folder}/config.yaml", f"model: {folder}/model\n{config}")
