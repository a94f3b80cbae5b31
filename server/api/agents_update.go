package api

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strconv"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/store"
)

func (h agents) UpdateAgent(ctx context.Context, r gen.UpdateAgentRequestObject) (gen.UpdateAgentResponseObject, error) {
	a, err := h.store.UpdateAgent(ctx, r.AgentID, func(st *store.Store, current store.Agent) (store.AgentConfig, error) {
		if err := checkMatch(r.Params.IfMatch, current.Version); err != nil {
			return store.AgentConfig{}, err
		}
		return updated(ctx, st, current.AgentConfig, r.Body)
	})
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	return written(a)
}

// updated is what a configuration becomes. It finds what is wrong with a body in view of what is stored; all else the rule for this
// operation has found.
func updated(ctx context.Context, st *store.Store, c store.AgentConfig, b *gen.AgentUpdate) (store.AgentConfig, error) {
	if b.Model != nil {
		c.Model = *b.Model
	}
	set(&c.Name, b.Name)
	set(&c.Requirements, b.Requirements)
	set(&c.RepoURL, b.RepoURL)
	set(&c.Branch, b.Branch)
	set(&c.PfpURL, b.PfpURL)
	set(&c.IdleTimeoutMs, b.IdleTimeoutMs)
	setOrEmpty(&c.MCPServers, b.McpServers)
	setOrEmpty(&c.AllowOut, b.AllowOut)
	setOrEmpty(&c.DenyOut, b.DenyOut)
	var found violations
	if b.EnvVars.IsSpecified() {
		c.EnvVars = unmasked(orZero(b.EnvVars), c.EnvVars, &found)
	}
	if b.SandboxFiles.IsSpecified() {
		c.Files = filled(orZero(b.SandboxFiles), c.Files, &found)
	}
	if len(found.list) > 0 {
		return c, invalid(found.list)
	}
	var err error
	if b.Prompt.IsSpecified() {
		c.Prompt, c.Skills, err = compose(ctx, st, given(b.Prompt), nil, c.Skills)
	}
	return c, err
}

// set changes a field that was given; null is nil.
func set[T any](field **T, n nullable.Nullable[T]) {
	if n.IsSpecified() {
		*field = given(n)
	}
}

// setOrEmpty changes a list that was given; null is an empty one.
func setOrEmpty[T any](field *[]T, n nullable.Nullable[[]T]) {
	if n.IsSpecified() {
		*field = orZero(n)
	}
}

// unmasked puts the stored values in the place of masks.
func unmasked(env, stored map[string]string, found *violations) map[string]string {
	result := maps.Clone(env)
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if env[key] != envMask {
			continue
		}
		value, ok := stored[key]
		if !ok {
			found.add(pointer("env_vars", key), "is masked, and no value is stored under this name")
		}
		result[key] = value
	}
	checkEnvSize(result, found)
	return result
}

// filled gives entries without content that of the stored file with their digest.
func filled(list []gen.SandboxFileUpdate, stored []store.File, found *violations) []store.File {
	sizes := make(map[string]int64, len(stored))
	for _, f := range stored {
		sizes[f.SHA256] = f.Size
	}
	files := make([]store.File, 0, len(list))
	total := 0
	for i, f := range list {
		at := func(name string) string { return pointer("sandbox_files", strconv.Itoa(i), name) }
		file := store.File{Name: f.Name, Path: f.SandboxPath, ContentType: contentType(f.ContentType)}
		if content := given(f.Content); content != nil {
			file.Content, file.Size = orEmpty(*content), int64(len(*content))
		} else {
			var ok bool
			file.SHA256 = orZero(f.Sha256)
			if file.Size, ok = sizes[file.SHA256]; !ok {
				found.add(at("sha256"), "is not that of a file this agent has")
			} else if size := given(f.Size); size != nil && *size != file.Size {
				found.add(at("size"), wrongSize)
			}
		}
		total += base64.StdEncoding.EncodedLen(int(file.Size))
		files = append(files, file)
	}
	checkFilesSize(total, found)
	return files
}
