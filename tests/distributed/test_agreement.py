"""Ranks that differ are seen."""

import torch as th

from sb3_trpo_fvp.distributed.agreement import checksum, odd_ones_out


def test_the_checksum_sees_one_bit_and_a_swap() -> None:
    module = th.nn.Linear(3, 2)
    before = checksum(module)
    with th.no_grad():
        weight = module.weight[0, 0].clone()
        module.weight[0, 0] = th.nextafter(weight, weight + 1)
        assert checksum(module) != before
        module.weight[0, 0] = weight
        assert checksum(module) == before
        module.weight[0, [0, 1]] = module.weight[0, [1, 0]]
        assert checksum(module) != before
    assert odd_ones_out(["a", "b", "a"]) == [1]
    assert odd_ones_out(["a", "b"]) == [1]
    assert odd_ones_out(["a", "a"]) == []
