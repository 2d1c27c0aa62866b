"""Preferences: a small language model learns first to answer, then to answer as a judge prefers (DPO).

Command:  python -m hcl_jax.main --config=dpo:reference --workdir=runs/reference
          python -m hcl_jax.main --config=dpo:preferences --config.init_from.path=runs/reference --workdir=runs/dpo
Arguments: reference (next token on the chosen responses), preferences (DPO; the first weights stay as the reference)
Hardware: 2 CPU cores.
Expected: see docs/results.md. A tenth of the preferences is the wrong way round, also in the test split: no judge
          reaches more than 90 % `accuracy/preference`.
Twins:    docs/twins.md, the authors' code beside these words, step by step: dpo, ipo.
Source:   Rafailov et al. 2023, "Direct preference optimization", arXiv 2305.18290.

The data are made from a rule (hcl_jax/data/preferences.py); --config.data.dir=DIR reads train.npz and test.npz with the
keys chosen and rejected. Then set towers.text.encoder.vocab_size and towers.text.heads.logits.features too.
"""

from hcl_jax.config import choose, defaults

VOCABULARY, SEPARATOR = 18, 1


def base(*names):
    """Views of token ids, with the response marked, in one causal tower with logits for every place."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels = "preferences", 256, ()
    ops = ({"op": "after", "token": SEPARATOR},)
    c.views = {name: {"kind": "text", "field": name, "ops": ops} for name in names}
    c.towers = {
        "text": {
            "views": names,
            "encoder": {"name": "text_transformer", "vocab_size": VOCABULARY, "width": 64, "depth": 2, "heads": 4}
            | {"causal": True, "pool": "last"},
            "heads": {"logits": {"name": "linear", "reads": "tokens", "features": VOCABULARY}},
        }
    }
    c.log.every = 50
    c.evaluate.labels, c.evaluate.evaluators, c.evaluate.baselines = "", {"objectives": {}}, False
    return c


def reference():
    """Supervised fine-tuning: the tokens of the chosen response, given the prompt."""
    c = base("chosen")
    inputs = {"logits": "chosen.logits", "tokens": "views.chosen.tokens", "response": "views.chosen.response"}
    c.objectives = {"answer": {"loss": "next_token", "inputs": inputs}}
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 3e-3, 1.0
    c.train.epochs = 15.0
    return c


def preferences():
    """DPO: the target is the reference, a copy of the first weights that never moves."""
    c = base("chosen", "rejected")
    c.towers.text.target = {"momentum": 1.0, "schedule": "constant", "heads": ("logits",)}
    inputs = {}
    for view in ("chosen", "rejected"):
        inputs[f"{view}_logits"] = f"{view}.logits"
        inputs[f"reference_{view}"] = f"{view}.target.logits"
        inputs[f"{view}_tokens"] = f"views.{view}.tokens"
        inputs[f"{view}_response"] = f"views.{view}.response"
    c.objectives = {"preference": {"loss": "dpo", "inputs": inputs, "beta": 0.1}}
    c.optimizer.learning_rate, c.optimizer.warmup_epochs, c.optimizer.weight_decay = 3e-4, 1.0, 0.0
    c.train.epochs = 10.0
    c.init_from.path = "runs/reference"
    return c


ARGUMENTS = {f.__name__: f for f in (reference, preferences)}


def get_config(argument="reference"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
