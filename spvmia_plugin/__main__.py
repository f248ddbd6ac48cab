"""`python -m spvmia_plugin`, for launchers that take a module: `accelerate launch -m spvmia_plugin run ...`."""

from spvmia_plugin.cli.main import main

if __name__ == "__main__":
    main()
