"""The test suite: unit (pure rules), integration (one floor with real servers), e2e (journeys), security."""
