"""What osbuild, osctl and machined share: errors, durable files, configuration documents, certificates, and the API's generated stubs."""
