"""What the frozen program begins with."""

from __future__ import annotations

from host_agent.main import main

if __name__ == "__main__":
    main()
