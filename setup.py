"""What pyproject.toml cannot say: the one file of C, which lpx can do without."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "lpx.calibration._tally",
            ["lpx/calibration/tally.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
