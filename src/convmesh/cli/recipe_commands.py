"""Commands about a recipe that write no workdir: recipes, check-mesh, bench."""

import argparse

from convmesh.errors import ConfigError


def recipes(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh recipes`."""
    from convmesh.config import list_recipes
    from convmesh.distributed import console

    found = list_recipes()
    width = max((len(recipe.name) for recipe in found), default=0)
    for recipe in found:
        console.print_result(f"{recipe.name:{width}}  {recipe.summary}")


def check_mesh(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh check-mesh`."""
    from convmesh.config import load_config

    config = load_config(args.config, overrides)

    from convmesh.distributed import console
    from convmesh.steps.chosen_sizes import with_chosen_sizes
    from convmesh.steps.mesh_check import check_mesh
    from convmesh.steps.noise import noise_setup

    check_mesh(noise_setup(with_chosen_sizes(config)), console.print_result)


def plan(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh plan`."""
    from convmesh.config import load_config

    config = load_config(args.config, overrides)
    if args.cpu_devices:
        raise ConfigError("plan: --topology names the devices; leave out --cpu-devices")

    from convmesh.plan.topology import open_topology

    topology = open_topology(args.topology)

    from convmesh.plan.planning import PlanOptions, check_picture
    from convmesh.plan.planning import plan as plan_recipe

    if args.picture:
        check_picture(args.picture)
    options = PlanOptions(
        args.json, args.picture, args.images, args.price, args.search, args.largest
    )
    plan_recipe(config, topology, options)


def bench(args: argparse.Namespace, overrides: tuple[str, ...]) -> None:
    """`convmesh bench`."""
    from convmesh.config import check_complete, load_config

    if args.part == "predict":
        if args.workdir is None:
            raise ConfigError("bench predict: --workdir is missing: the trained model")

        from convmesh.bench.predict import bench_predict

        bench_predict(args.workdir, overrides, args.json)
        return
    if args.config is None:
        raise ConfigError(f"bench {args.part}: --config is missing: the recipe")
    config = load_config(args.config, overrides)
    if args.compare and args.part not in ("step", "input"):
        raise ConfigError(f"--compare: only bench step and bench input take it, not {args.part}")
    if args.part in ("loop", "eval", "scale"):
        check_complete(config)

    from convmesh.steps.chosen_sizes import with_chosen_sizes

    if args.part != "scale":  # which starts processes of its own
        config = with_chosen_sizes(config)
    if args.part == "step":
        from convmesh.bench.step import bench_step

        bench_step(config, args.json, args.compare)
    elif args.part == "input":
        from convmesh.bench.input import bench_input

        bench_input(config, args.json, args.compare)
    elif args.part == "loop":
        from convmesh.bench.loop import bench_loop

        bench_loop(config, args.steps, args.json)
    elif args.part == "eval":
        from convmesh.bench.eval import bench_eval

        bench_eval(config, args.json)
    else:
        from convmesh.bench.scale import bench_scale

        bench_scale(args.config, overrides, args.steps, args.json)
