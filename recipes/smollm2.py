"""Trains the adapter that fotmem ships as ``smollm2-fot``, on text that every Python has.

Run by ``make recipe-smollm2``; a second run continues a stopped one.
"""

import sysconfig
from pathlib import Path

import fotmem
from fotmem.files import python_reference
from fotmem.models.load import load_model
from fotmem.models.tuned_adapter import read_tuned_adapter, write_tuned_adapter
from recipes.shipping import ship_halves

BUILD = Path("build/recipe-smollm2")
SHIPPED = Path("fotmem/recipes/smollm2")
SOURCES = 500_000
"""Characters of the standard library's sources, beside the language reference."""
TEMPERATURE = 0.7
"""Temperature of the shipped model, chosen after training: it finds a key among very many more
often."""
OPTIONS = fotmem.TrainingOptions(evaluate_every=120, bf16=True)


def main() -> None:
    """Write the data, train, and put the adapter where the package ships it from."""
    model, tokenizer = load_model("smollm2")
    fotmem.train(
        model, tokenizer, data(), BUILD / "tuned", options=OPTIONS, resume=True, progress=True
    )
    ship(BUILD / "tuned")
    print(f"the adapter is in {SHIPPED}")


def ship(tuned: Path) -> None:
    """Copy a tuned adapter to where the package has it, in float16 and with its own temperature."""
    files = ("adapter_model.safetensors", "adapter_config.json", "losses.png")
    ship_halves(tuned, SHIPPED, *files)
    tuned_for = read_tuned_adapter(tuned).model_copy(update={"mem_temperature": TEMPERATURE})
    write_tuned_adapter(SHIPPED, tuned_for)


def data() -> list[Path]:
    """Write what is trained on: prose and code."""
    BUILD.mkdir(parents=True, exist_ok=True)
    prose, code = BUILD / "reference.txt", BUILD / "library.txt"
    prose.write_text(python_reference(), encoding="utf-8")
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_text("utf-8", "ignore") for path in sorted(library.glob("*.py"))]
    code.write_text("\n\n".join(sources)[:SOURCES], encoding="utf-8")
    return [prose, code]


if __name__ == "__main__":
    main()
