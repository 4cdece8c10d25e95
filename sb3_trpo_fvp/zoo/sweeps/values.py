"""What a sweep may set: its values come from a server, and RL-Zoo runs some as Python. Here they are data, or refused."""

import ast
import importlib
import math
from collections.abc import Mapping
from typing import Any

from sb3_trpo_fvp.zoo.command_line import UserError

EVALUATED = ("normalize", "policy_kwargs", "monitor_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
"""Hyperparameters that RL-Zoo passes to ``eval`` where they are strings."""

IMPORTED = ("policy", "env_wrapper", "vec_env_wrapper", "callback")
"""Hyperparameters in which RL-Zoo imports classes by their dotted names."""

PACKAGES = ("gymnasium", "minigrid", "rl_zoo3", "sb3_contrib", "sb3_trpo_fvp", "stable_baselines3")
"""Packages whose environment wrappers, callbacks and policies a sweep may name."""

FORMS = "numbers, strings, lists, dict(name=value) and classes such as nn.ReLU"


def check_data(name: str, value: Any) -> None:
    """
    :param name: parameter of a sweep
    :param value: its value
    :raises UserError: if it is not what JSON can hold: ``None``, booleans, finite numbers, strings, lists and dicts of these
    """
    if isinstance(value, list):
        for element in value:
            check_data(name, element)
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for element in value.values():
            check_data(name, element)
    elif not (value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))):
        msg = f"`{name}` of a sweep must be a finite number, a string, a boolean, or lists and dicts of these, got {value!r}"
        raise UserError(msg)


def check_values(hyperparams: Mapping[str, Any]) -> None:
    """
    Check what RL-Zoo would run as code, if it came from a hyperparameter file.

    :param hyperparams: hyperparameters that a sweep sets
    :raises UserError: for a name that is no name of a Python argument, a string to evaluate that is more than data and
        the classes of ``nn`` and ``th.optim``, or a class to import that is no wrapper, callback or policy of a known package
    """
    for name, value in hyperparams.items():
        if not name.isidentifier():
            msg = f"{name!r} is not the name of a hyperparameter"
            raise UserError(msg)
        check_data(name, value)
        if name in EVALUATED and isinstance(value, str):
            _check_expression(name, value)
        if name in IMPORTED:
            for entry in value if isinstance(value, list) else [value]:
                for path in entry if isinstance(entry, dict) else [entry]:
                    _check_class(name, path)


def _check_expression(name: str, text: str) -> None:
    try:
        allowed = _is_data(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        allowed = False
    if not allowed:
        msg = f"`{name}` of a sweep may hold {FORMS}, got {text!r}; a hyperparameter file (conf_file) may hold any Python"
        raise UserError(msg)


def _is_data(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            return all(map(_is_data, elements))
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and _is_data(key) for key in keys) and all(map(_is_data, values))
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return all(keyword.arg is not None and _is_data(keyword.value) for keyword in keywords)
        case ast.Name(id="HerReplayBuffer" | "RMSpropTFLike"):
            return True
        case ast.Attribute(value=ast.Name(id="nn"), attr=attribute):
            return _is_class("torch.nn", attribute)
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="th"), attr="nn" | "optim" as module), attr=attribute):
            return _is_class(f"torch.{module}", attribute)
    return False


def _is_class(module: str, name: str) -> bool:
    return not name.startswith("_") and isinstance(getattr(importlib.import_module(module), name, None), type)


def _check_class(name: str, path: Any) -> None:
    if path is None or (name == "policy" and isinstance(path, str) and "." not in path):  # an alias, "MlpPolicy"
        return
    from gymnasium import Wrapper
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnvWrapper

    base = {"policy": BasePolicy, "env_wrapper": Wrapper, "vec_env_wrapper": VecEnvWrapper, "callback": BaseCallback}[name]
    found = None
    if isinstance(path, str) and path.split(".")[0] in PACKAGES:
        module, _, attribute = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"`{name}` of a sweep must be a {base.__name__} of {', '.join(PACKAGES)}, got {path!r}"
        raise UserError(msg)
