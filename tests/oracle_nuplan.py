"""The nuPlan score of one agent, from plain lists of what happened to it in the steps in which it was there."""


def parts(
    road_users: list[bool],
    objects: list[int],
    edge: list[float],
    against: list[float],
    times: list[float],
    covered: float,
    expert: float,
    excess: list[float],
    comfort_violation: list[float],
    dt: float,
) -> dict[str, float | None]:
    """Parts by name; None where the measure was never known. `times` has an entry for every step."""
    window = round(1 / dt) + 1
    worst = max((sum(against[i : i + window]) for i in range(len(against))), default=None)
    ratio = 0.0 if covered < -2.0 else min(max(covered, 2.0) / max(expert, 2.0), 1.0)
    return {
        "no_ego_at_fault_collisions": None
        if not road_users
        else 0.0
        if any(road_users) or sum(objects) > 1
        else 0.5
        if sum(objects) == 1
        else 1.0,
        "drivable_area_compliance": float(max(edge) <= 0.3) if edge else None,
        "driving_direction_compliance": None if worst is None else 1.0 if worst < 2 else 0.5 if worst < 6 else 0.0,
        "ego_is_making_progress": float(ratio >= 0.2),
        "time_to_collision_within_bound": float(min(times) >= 0.95),
        "ego_progress_along_expert_route": ratio,
        "speed_limit_compliance": max(0.0, 1 - sum(excess) * dt / (2.23 * len(times) * dt)) if excess else None,
        "ego_is_comfortable": float(max(comfort_violation) <= 1) if comfort_violation else None,
    }


def score(found: dict[str, float | None]) -> float:
    """Four parts multiplied, times the weighted mean of the others; those that are not known play no part."""
    gates = ("no_ego_at_fault_collisions", "drivable_area_compliance", "driving_direction_compliance")
    product = 1.0
    for name in (*gates, "ego_is_making_progress"):
        if found[name] is not None:
            product *= found[name]
    terms = [
        ("time_to_collision_within_bound", 5),
        ("ego_progress_along_expert_route", 5),
        ("speed_limit_compliance", 4),
        ("ego_is_comfortable", 2),
    ]
    known = [(found[name], weight) for name, weight in terms if found[name] is not None]
    return product * sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
