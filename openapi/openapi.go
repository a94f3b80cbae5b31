// Package openapi holds the source of the public API's description, for servers that publish it. It knows nothing else.
package openapi

import _ "embed"

// YAML is openapi.yaml as it was written. It must not be changed.
//
//go:embed openapi.yaml
var YAML []byte
