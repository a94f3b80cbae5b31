// Package kubernetes tests the server with pods as sandboxes, from outside: the real binary, through the public API, against a real
// API server and the stand-in for nodes of package kubetest. It owns no code of the product.
package kubernetes
