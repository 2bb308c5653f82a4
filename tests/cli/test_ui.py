"""MLflow's server answers same-origin requests only."""

import pytest
from fastapi.testclient import TestClient

from fer_lib.cli.ui import mlflow_page

OWN = "http://127.0.0.1:5000"
CREATE = "/api/2.0/mlflow/experiments/create"


@pytest.fixture(scope="module")
def client():
    return TestClient(mlflow_page(), base_url=OWN)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://127.0.0.1:5001"},
        {"origin": "http://localhost:5000"},  # the same server by another name is another origin
        {"origin": "https://example.org"},
        {"origin": "null"},
        {"host": "example.org"},
        {"host": "127.0.0.1.example.org"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
@pytest.mark.parametrize("method, path", [("POST", CREATE), ("GET", "/version"), ("PUT", "/api/2.0/mlflow-artifacts")])
def test_another_page_is_refused(client, headers, method, path):
    answer = client.request(method, path, headers=headers, json={"name": "x"})
    assert answer.status_code == 403 and "fer ui" in answer.text
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": OWN},
        {"host": "localhost:8888", "origin": "http://localhost:8888"},  # a tunnel
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a person follows a link
    ],
)
def test_its_own_page_is_answered(client, headers):
    answer = client.get("/version", headers=headers)
    assert answer.status_code == 200 and answer.headers["cross-origin-resource-policy"] == "same-origin"
