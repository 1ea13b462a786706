"""Encoders of small records of formats with one scene per file, so that tests can damage them."""

import numpy as np

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES
from waymax_sim.datatypes.roadmap import CONTROLS, LANE_TYPES, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR, kind_name
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES

NOWHERE = -10000.0
TYPES = {1: "LANE_FREEWAY", 2: "LANE_SURFACE_STREET", 15: "ROAD_EDGE_BOUNDARY", 17: "STOP_SIGN", 18: "CROSSWALK"}


def point(xyz, axes: str = "xyz") -> dict:
    return dict(zip(axes, map(float, xyz), strict=True))


def gpudrive_of(scene: RawScene) -> dict:
    """A scene in the current schema of GPUDrive; the sizes are those of the last valid state."""
    objects = []
    for i, agent in enumerate(scene.agent_id.tolist()):
        valid = scene.valid[:, i]
        length, width, height = scene.size[np.flatnonzero(valid)[-1], i].tolist()
        objects.append(
            {
                "position": [point(p if v else [NOWHERE] * 3) for p, v in zip(scene.xyz[:, i], valid, strict=True)],
                "velocity": [
                    point(p if v else [NOWHERE] * 2, "xy") for p, v in zip(scene.velocity[:, i], valid, strict=True)
                ],
                "heading": np.where(valid, scene.yaw[:, i], NOWHERE).tolist(),
                "valid": valid.tolist(),
                "length": length,
                "width": width,
                "height": height,
                "type": AGENT_TYPE_NAMES[scene.agent_type[i]],
                "id": agent,
            }
        )
    roads = [
        {
            "geometry": [point(p) for p in scene.point_xyz[scene.point_feature == row]],
            "type": kind_name(code),
            "map_element_id": code,
            "id": feature,
        }
        for row, (feature, code) in enumerate(zip(scene.feature_id.tolist(), scene.feature_type.tolist(), strict=True))
    ]
    tl_states = {}
    for column, lane in enumerate(scene.signal_lane_id.tolist()):
        steps = np.flatnonzero(scene.signal_valid[:, column]).tolist()
        tl_states[str(lane)] = {
            "state": [SIGNAL_STATE_NAMES[code] for code in scene.signal_state[steps, column]],
            **{axis: scene.signal_stop_point[steps, column, a].tolist() for a, axis in enumerate("xyz")},
            "time_index": steps,
            "lane_id": [lane] * len(steps),
        }
    return {
        "name": "scene.json",
        "scenario_id": scene.scenario_id,
        "objects": objects,
        "roads": roads,
        "tl_states": tl_states,
        "metadata": {
            "sdc_track_index": scene.sdc_index,
            "objects_of_interest": scene.agent_id[scene.of_interest].tolist(),
            "tracks_to_predict": [
                {"track_index": index, "difficulty": 0} for index in np.flatnonzero(scene.to_predict).tolist()
            ],
        },
    }


def nocturne_of(scene: RawScene) -> dict:
    """A scene in the schema of Nocturne: degrees, flat, without ids, metadata, heights and types of roads."""
    record = gpudrive_of(scene)
    for track in record["objects"]:
        del track["id"], track["height"]
        for place in track["position"]:
            del place["z"]
        track["heading"] = [h if h == NOWHERE else float(np.degrees(h)) for h in track["heading"]]
    for road in record["roads"]:
        del road["id"], road["map_element_id"]
        for place in road["geometry"]:
            del place["z"]
    for light in record["tl_states"].values():
        del light["z"], light["lane_id"]
    del record["metadata"], record["scenario_id"]
    return record


def scenarionet_of(scene: RawScene) -> dict:
    """A scene as written by ScenarioNet's converter of Waymo Open Motion."""
    tracks = {}
    for i, agent in enumerate(scene.agent_id.tolist()):
        state = {"position": scene.xyz[:, i], "heading": scene.yaw[:, i], "velocity": scene.velocity[:, i]}
        state |= {name: scene.size[:, i, axis] for axis, name in enumerate(("length", "width", "height"))}
        kind = AGENT_TYPE_NAMES[scene.agent_type[i]].upper()
        tracks[str(agent)] = {"type": kind, "state": state | {"valid": scene.valid[:, i]}, "metadata": {}}
    lights = {}
    for column, lane in enumerate(scene.signal_lane_id.tolist()):
        seen = scene.signal_valid[:, column]
        words = ["LANE_STATE_" + SIGNAL_STATE_NAMES[code].upper() for code in scene.signal_state[:, column]]
        lights[str(lane)] = {
            "type": "TRAFFIC_LIGHT",
            "state": {"object_state": [word if v else None for word, v in zip(words, seen, strict=True)]},
            "lane": lane,
            "stop_point": scene.signal_stop_point[np.flatnonzero(seen)[0], column],
        }
    ids = [str(agent) for agent in scene.agent_id]
    return {
        "id": scene.scenario_id,
        "version": "a version",
        "length": len(scene.timestamps),
        "tracks": tracks,
        "dynamic_map_states": lights,
        "map_features": {str(scene.feature_id[row]): map_feature(scene, row) for row in range(len(scene.feature_id))},
        "metadata": {
            "ts": scene.timestamps,
            "dataset": "waymo",
            "sdc_id": ids[scene.sdc_index],
            "current_time_index": scene.current_step,
            "tracks_to_predict": {ids[i]: {"track_id": ids[i]} for i in np.flatnonzero(scene.to_predict)},
            "objects_of_interest": [ids[i] for i in np.flatnonzero(scene.of_interest)],
            "number_summary": {"object_types": {"VEHICLE", "PEDESTRIAN"}},
        },
    }


def map_feature(scene: RawScene, row: int) -> dict:
    code, points = int(scene.feature_type[row]), scene.point_xyz[scene.point_feature == row]
    feature: dict = {"type": TYPES[code]}

    def linked(kind, own, other):
        return [int(scene.feature_id[link[other]]) for link in scene.links if link[2] == kind and link[own] == row]

    if code == 17:
        return feature | {"position": points[0], "lane": linked(CONTROLS, 0, 1)}
    if code == 18:
        return feature | {"polygon": points}
    if code not in LANE_TYPES:
        return feature | {"polyline": points}
    return feature | {
        "polyline": points,
        "speed_limit_mph": float(scene.speed_limit[row] / 0.44704),
        "speed_limit_kmh": float(scene.speed_limit[row] * 3.6),
        "entry_lanes": linked(SUCCESSOR, 1, 0),
        "exit_lanes": linked(SUCCESSOR, 0, 1),
        "left_neighbor": [{"feature_id": str(lane), "boundaries": []} for lane in linked(LEFT_NEIGHBOR, 0, 1)],
        "right_neighbor": [{"feature_id": str(lane), "boundaries": []} for lane in linked(RIGHT_NEIGHBOR, 0, 1)],
    }
