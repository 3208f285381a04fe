import torch

from bench.activations import Alive, step


def test_what_is_alive_is_counted():
    with Alive() as alive:
        a = torch.zeros(1000)
        b = a + 1
        view = b[:10]
        assert alive.now == 8000
        del b
        assert alive.now == 8000  # the view holds it
        del a, view
        assert alive.now == 0 and alive.most == 8000


def test_saving_memory_keeps_less():
    kept, most = step("pyramid", (32, 32, 32))
    less, least = step("pyramid", (32, 32, 32), save_memory=True)
    assert less < 0.8 * kept and kept <= most and least < most
