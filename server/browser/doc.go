// Package browser tries the pages of the real server in a real Chromium, as a person would: Swagger UI and the guide. It is tests
// only; -screenshots=directory keeps pictures of what there is to see.
package browser
