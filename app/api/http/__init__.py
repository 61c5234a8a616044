"""HTTP below the routes: middleware, routing, bodies, errors, idempotency, conditional requests, OpenAPI."""
