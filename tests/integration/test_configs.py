"""Every example loads, here and in V2Ray."""

import glob
import os
import subprocess
import unittest

from ebbtest import case, configs, programs


class Examples(case.ProgramCase):
    def examples(self) -> list[str]:
        found = sorted(glob.glob(os.path.join(configs.ROOT, "configs", "*", "*.json")))
        self.assertTrue(found)
        return found

    def test_ours_loads_them(self):
        if programs.SELF_CHECK:
            self.skipTest("nothing of ours in a self-check")
        for path in self.examples():
            done = subprocess.run([programs.ebbgate_binary(), "test", "-c", path], capture_output=True, text=True,
                                  timeout=20, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertNotIn(": warning: ", done.stdout + done.stderr)

    def test_v2ray_loads_them(self):
        for path in self.examples():
            done = subprocess.run([programs.V2RAY, "-test", "-config", path], capture_output=True, text=True,
                                  timeout=20, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
