from pathlib import Path

import pytest

from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.scenarios.spec import Place
from tickdrive.planner.errors import RouteError

LB2 = """<?xml version="1.0" encoding="UTF-8"?>
<routes>
  <route id="7" town="Town12">
    <weathers>
      <weather route_percentage="100" cloudiness="100" sun_altitude_angle="10"/>
      <weather route_percentage="0" cloudiness="0" sun_altitude_angle="70" precipitation="4"/>
    </weathers>
    <waypoints>
      <position x="1.5" y="-2" z="0.1"/><position x="10" y="3" z="0"/><position x="20" y="3" z="0"/>
    </waypoints>
    <scenarios>
      <scenario name="Accident_1" type="Accident">
        <trigger_point x="1" y="2" z="3" yaw="90"/><distance value="7"/>
      </scenario>
      <scenario name="P" type="Unheard"/>
    </scenarios>
  </route>
  <route id="8" town="Town13">
    <waypoints><position x="0" y="0" z="0"/><position x="1" y="0" z="0"/></waypoints>
  </route>
  <route id="11" town="Town13">
    <waypoints><position x="0" y="0" z="0"/><position x="1" y="0" z="0"/></waypoints>
  </route>
</routes>"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "routes.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def route_xml(body: str, attributes: str = 'id="1" town="Town01"') -> str:
    return f"<routes><route {attributes}>{body}</route></routes>"


TWO = '<waypoints><position x="0" y="0" z="0"/><position x="9" y="0" z="0"/></waypoints>'


def test_leaderboard_2_routes(tmp_path):
    routes = read_routes(write(tmp_path, LB2))
    first = routes[0]
    assert (first.id, first.town, first.name) == ("7", "Town12", "RouteScenario_7")
    assert first.keypoints_in_world == ((1.5, -2.0, 0.1), (10.0, 3.0, 0.0), (20.0, 3.0, 0.0))
    assert [(s.name, s.type, s.trigger) for s in first.scenarios] == [
        ("Accident_1", "Accident", Place(1.0, 2.0, 3.0, 90.0)),
        ("P", "Unheard", None),
    ]
    assert first.locations()[1].x == pytest.approx(10.0)


def test_weather_is_interpolated_and_has_upstreams_base(tmp_path):
    first, second, _ = read_routes(write(tmp_path, LB2))
    assert [w.route_percent for w in first.weathers] == [0.0, 100.0]
    middle = first.weather_at(25.0)
    assert middle.cloudiness == pytest.approx(25.0)
    assert middle.sun_altitude_angle == pytest.approx(55.0)
    assert middle.precipitation == pytest.approx(3.0)
    assert first.weather_at(200.0).cloudiness == pytest.approx(100.0)
    assert second.weather_at(50.0).sun_altitude_angle == pytest.approx(70.0)
    assert second.weather_at(50.0).cloudiness == pytest.approx(50.0)


def test_leaderboard_1_routes(tmp_path):
    rest = 'z="0" pitch="0" roll="0" yaw="90"'
    body = f'<waypoint x="1" y="2" {rest}/><waypoint x="5" y="2" {rest}/>'
    (route,) = read_routes(write(tmp_path, route_xml(body)))
    assert route.keypoints_in_world == ((1.0, 2.0, 0.0), (5.0, 2.0, 0.0))


@pytest.mark.parametrize(
    ("subset", "ids"),
    [
        ("", ["7", "8", "11"]),
        ("8", ["8"]),
        ("11,7", ["7", "11"]),
        ("7-8", ["7", "8"]),
        ("7-11", ["7", "8", "11"]),
    ],
)
def test_subset(tmp_path, subset, ids):
    assert [r.id for r in read_routes(write(tmp_path, LB2), subset)] == ids


@pytest.mark.parametrize(("subset", "said"), [("9", "9"), ("8-7", "backwards"), ("7-99", "99")])
def test_wrong_subset(tmp_path, subset, said):
    with pytest.raises(RouteError, match=said):
        read_routes(write(tmp_path, LB2), subset)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<routes>", "not valid XML"),
        (b"\xff\xfe\x00garbage", "not valid XML"),
        ("<routes></routes>", "no <route>"),
        (route_xml(TWO, 'town="Town01"'), "no id"),
        (route_xml(TWO, 'id="1"'), "no town"),
        (route_xml(TWO, 'id="../x" town="Town01"'), r"\.\./x"),
        (route_xml(TWO, 'id="1" town="../../etc/passwd"'), "no map name"),
        (route_xml(TWO, 'id="1" town="a\\b"'), "no map name"),
        (route_xml("<waypoints><position x='0' y='0' z='0'/></waypoints>"), "1 waypoint"),
        (route_xml("<waypoints><position x='0' y='0'/><position x='0' y='0' z='0'/></waypoints>"), "'z'"),
        (
            route_xml("<waypoints><position x='nan' y='0' z='0'/><position x='0' y='0' z='0'/></waypoints>"),
            "'nan'",
        ),
        (
            route_xml("<waypoints><position x='q' y='0' z='0'/><position x='0' y='0' z='0'/></waypoints>"),
            "'q'",
        ),
        (route_xml(TWO + "<weathers><weather route_percentage='120'/></weathers>"), "120"),
        (
            route_xml(
                TWO + "<weathers><weather route_percentage='5'/><weather route_percentage='5'/></weathers>"
            ),
            "two weathers",
        ),
        (
            f"<routes><route id='1' town='T'>{TWO}</route><route id='1' town='T'>{TWO}</route></routes>",
            "twice",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(RouteError, match=said) as caught:
        read_routes(path)
    assert "routes.xml" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path, encoding):
    bomb = (
        f'<?xml version="1.0" encoding="{encoding}"?>'
        '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">'
        '<!ENTITY f SYSTEM "file:///etc/passwd">]>' + route_xml(TWO + "<x>&b;</x>")
    )
    with pytest.raises(RouteError, match="document type"):
        read_routes(write(tmp_path, bomb.encode(encoding)))


def test_missing_file(tmp_path):
    with pytest.raises(RouteError, match=r"nowhere\.xml"):
        read_routes(tmp_path / "nowhere.xml")
