"""What the tests of the conformance suite share: SDKs over real HTTP."""
