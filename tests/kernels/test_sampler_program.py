"""What the tests without a GPU compile for one is still what the sampler runs."""

from sampler_program import sampler_program


def test_the_step_loop_is_traced():
    program, arguments, options = sampler_program()
    text = program.lower(*arguments, **options).as_text()
    assert "stablehlo.while" in text
