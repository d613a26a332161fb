"""Changes of a checkpoint's files that a release can have by mistake, one after another."""

import json


def change(file, **values):
    """Change fields of a JSON file."""

    def do(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return do


def stop_at(token):
    """Change the token that ends an answer in every file."""

    def do(folder):
        for file in ("config.json", "generation_config.json"):
            change(file, eos_token_id=token)(folder)

    return do


def without(file):
    """Remove a file."""
    return lambda folder: (folder / file).unlink()


def hide_a_word(folder):
    """Make a word of the vocabulary special, so that no user sees it in an answer."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    number = 40
    word = next(word for word, its_number in content["model"]["vocab"].items() if its_number == number)
    content["added_tokens"].append(content["added_tokens"][0] | {"id": number, "content": word})
    path.write_text(json.dumps(content))
