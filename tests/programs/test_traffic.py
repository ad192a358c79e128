"""traffic: bytes by hand."""

import jax
import jax.numpy as jnp
import pytest

from convmesh.programs.traffic import memory_traffic

TEXT = """HloModule m

%fused (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %n = f32[8,4]{1,0} negate(%p)
}

%body (s: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %s = (f32[8,4]{1,0}, s32[]) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=0
  %i = s32[] get-tuple-element(%s), index=1
  %y = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %t = (f32[8,4]{1,0}, s32[]) tuple(%y, %i)
}

%cond (s: (f32[8,4], s32[])) -> pred[] {
  %s = (f32[8,4]{1,0}, s32[]) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: bf16[8,4]) -> f32[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %near = f32[8,4]{1,0:T(8,128)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %b = f32[8,4]{1,0} fusion(%near), kind=kLoop, calls=%fused
  %zero = s32[] constant(0)
  %init = (f32[8,4]{1,0}, s32[]) tuple(%b, %zero)
  %loop = (f32[8,4]{1,0}, s32[]) while(%init), condition=%cond, body=%body, TRIPS
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%loop), index=0
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"5"}}')


def test_by_hand():
    # `near` reads 64 bytes and writes none; `b` writes 128; five times the loop reads and writes.
    assert memory_traffic(TEXT) == 64 + 128 + 5 * (128 + 128)


def test_of_a_compiled_program():
    x = jnp.ones((1000, 1000))
    text = jax.jit(lambda x: jnp.tanh(x) + 1).lower(x).compile().as_text()
    assert memory_traffic(text) == 2 * 4 * 10**6


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        memory_traffic("nothing")
