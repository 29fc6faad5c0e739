"""The five pairs of files users start from, unchanged but for their ports, in every pairing with V2Ray."""

import unittest

from ebbtest import case, pattern, visitors

SIZE = pattern.bulk(256 * pattern.MIB)
PAIRINGS = {"ours_ours": ("ours", "ours"), "our_portal_v2ray_bridge": ("ours", "v2ray"),
            "v2ray_portal_our_bridge": ("v2ray", "ours")}


class _Seeds(case.PairCase):
    exclusive = True  # moves bulk data

    def seed(self, number: str) -> None:
        self.start_pair(number)
        self.assertEqual(visitors.download(self.public, SIZE), pattern.sha256(SIZE), "256 MiB down")
        self.assertEqual(visitors.upload(self.public, SIZE), pattern.sha256(SIZE), "256 MiB up")
        failures = visitors.short_connections(self.public, 500, 25)
        self.assertEqual(failures, [], "500 short connections, 25 in parallel")

    def test_000_english(self):
        self.seed("000")

    def test_001_korean(self):
        self.seed("001")

    def test_002_chinese(self):
        self.seed("002")

    def test_003_xray(self):
        self.seed("003")

    def test_004_guide(self):
        self.seed("004")


for _name, (_portal, _bridge) in PAIRINGS.items():
    globals()[f"Seeds_{_name}"] = type(f"Seeds_{_name}", (_Seeds,),
                                       {"portal_kind": _portal, "bridge_kind": _bridge, "__module__": __name__})
del _Seeds  # only its three pairings are tests

if __name__ == "__main__":
    unittest.main()
