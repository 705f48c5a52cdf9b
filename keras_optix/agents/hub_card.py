"""The model card of an agent on the Hub: what it is, the evidence, and how to load it."""

from __future__ import annotations

from typing import Any

from keras_optix.agents.hub_description import HubDescription, HubEvaluation
from keras_optix.experience.spaces_json import from_json
from keras_optix.formatting import format_estimate, format_number

_TASK = "reinforcement-learning"
_LONG = 300  # characters of a space

_CARD = """# {title}

{introduction}

## Evidence

{evidence}

## Use

```bash
pip install "keras_optix[hub]"
```

```python
import keras_optix as optix

agent = optix.Agent.from_hub("{repo_id}")
{use}
```

`from_hub` runs no code of the repository: nothing is unpickled, and the checksum, the spaces and the weights are
checked.
{exported}
## Details

| | |
|---|---|
{details}
"""
_EXPORTED = """
`policy.tflite` in the repository is the policy alone. It takes the observations of the environment and returns its
actions, in the LiteRT interpreter without TensorFlow and Keras:
`Interpreter("policy.tflite").get_signature_runner("act")`.
"""


def card_of(hub: Any, repo_id: str, description: HubDescription, *, exported: bool) -> str:
    """Returns the text of the card, which begins with the metadata that the Hub reads.

    Args:
        hub: The module huggingface_hub.
        repo_id: The repository.
        description: What the card says.
        exported: Whether the repository has the policy as a LiteRT file.
    """
    name = repo_id.rpartition("/")[2]
    env = description.env or "an environment without a name"
    known = "" if description.env_steps is None else f" It has learned from {description.env_steps:,} env steps."
    text = _CARD.format(
        title=f"{description.agent} on {env}",
        introduction=f"A `{description.agent}` of keras_optix that plays {env}.{known}",
        evidence=_evidence(description.evaluation),
        repo_id=repo_id,
        use=_use(description.env),
        exported=_EXPORTED if exported else "",
        details="\n".join(f"| {name} | {value} |" for name, value in _details(description).items()),
    )
    return f"---\n{_metadata(hub, name, description)}\n---\n\n{text}"


def _metadata(hub: Any, name: str, description: HubDescription) -> str:
    tags = [_TASK, "keras", "keras-optix", description.agent, *([description.env] if description.env else [])]
    scores = {}
    if description.evaluation is not None and description.env is not None:
        result = hub.EvalResult(
            task_type=_TASK,
            task_name=_TASK,
            dataset_type=description.env,
            dataset_name=description.env,
            metric_type="mean_reward",
            metric_name="mean return +/- standard error",
            metric_value=_estimate(description.evaluation).replace("±", "+/-"),
        )
        scores = {"model_name": name, "eval_results": [result]}
    return str(hub.ModelCardData(library_name="keras_optix", pipeline_tag=_TASK, tags=tags, **scores).to_yaml())


def _estimate(evaluation: HubEvaluation) -> str:
    return format_estimate(evaluation.score, evaluation.stderr)


def _evidence(evaluation: HubEvaluation | None) -> str:
    if evaluation is None:
        return "No evaluation was given when the agent was pushed."
    error = "standard error unknown" if evaluation.stderr is None else "mean ± standard error"
    count = "number of episodes unknown" if evaluation.episodes is None else f"n = {evaluation.episodes} episodes"
    rows = {"score": f"**{_estimate(evaluation)}** ({error}, {count})"}
    rows |= {f"`{name}`": format_number(value) for name, value in sorted(evaluation.metrics.items())}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"As measured by the author of the repository:\n\n| | |\n|---|---|\n{table}"


def _use(env: str | None) -> str:
    if env is None:
        return "action = agent.act(observation, deterministic=True)"
    return f'print(optix.evaluate_policy(agent, "{env}", episodes=100, seed=1))'


def _details(description: HubDescription) -> dict[str, str]:
    steps = "unknown" if description.env_steps is None else f"{description.env_steps:,}"
    values = ", ".join(f"`{name}={value:g}`" for name, value in sorted(description.hyperparams.items()))
    return {
        "agent": f"`{description.agent}`",
        "environment": f"`{description.env}`" if description.env else "unknown",
        "env steps of training": steps,
        "updates of the weights": f"{description.policy_version:,}",
        "hyperparameters": values or "none",
        "observations": _space(description.observation_space),
        "actions": _space(description.action_space),
        "versions": ", ".join(f"{name} {version}" for name, version in description.versions.items()),
    }


def _space(values: dict[str, Any]) -> str:
    text = " ".join(str(from_json(values)).split()).replace("|", "\\|").replace("`", "")
    return f"`{text if len(text) <= _LONG else text[:_LONG] + ' ...'}`"
