"""The OpenAPI document's examples fit its schemas."""

import json
import unittest
from pathlib import Path

from jsonschema import Draft7Validator

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = json.loads((ROOT / "openapi" / "openapi.json").read_text())


def as_json_schema(schema):
    """OpenAPI 3.0 has its own words for null and for exclusive bounds."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: as_json_schema(value) for name, value in schema.items() if name != "example"}
    for bound in ("Minimum", "Maximum"):
        if schema.get("exclusive" + bound) is True:
            schema["exclusive" + bound] = schema.pop(bound.lower())
        elif schema.get("exclusive" + bound) is False:
            del schema["exclusive" + bound]
    if schema.pop("nullable", False) is True:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema


def examples(node, path=""):
    """Each example: where it is, its schema, and itself."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from examples(item, f"{path}/{number}")
    elif isinstance(node, dict):
        if "example" in node and not path.endswith("/properties"):
            yield path, node.get("schema", node), node["example"]
        for name, value in node.get("examples", {}).items() if "schema" in node else ():
            yield f"{path}/examples/{name}", node["schema"], value["value"]
        for name, value in node.items():
            if name != "example":
                yield from examples(value, f"{path}/{name}")


def errors(schema, example):
    components = as_json_schema(DOCUMENT["components"])
    validator = Draft7Validator({**as_json_schema(schema), "components": components})
    return [error.message for error in validator.iter_errors(example)]


class Document(unittest.TestCase):
    def test_every_example_fits_its_schema(self):
        found = list(examples(DOCUMENT))
        self.assertIn("/components/schemas/NewMessage", [path for path, _, _ in found])
        for path, schema, example in found:
            with self.subTest(path):
                self.assertEqual(errors(schema, example), [])

    def test_an_example_with_a_null_that_its_schema_forbids_is_found(self):
        schema = DOCUMENT["components"]["schemas"]["NewMessage"]
        self.assertTrue(errors(schema, {"content": "x", "tool_results": None}))
        self.assertFalse(errors(schema, {"content": "x", "parent_id": None}))


if __name__ == "__main__":
    unittest.main()
