"""Build hook: setup.cfg holds the metadata, this adds the C extension."""

from setuptools import setup

setup(cffi_modules=["snabb_py/native_build.py:ffibuilder"])
