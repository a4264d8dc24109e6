// Stands in for packages that Azurite loads and, as our tests start it, does not use. `start` is all that it calls
// with telemetry off.
exports.start = () => {};
