package plugin

import (
	"slices"
	"testing"
)

// TestOptionsComeOnce: the engine sends options only with the Create of a new name. For an existing volume it sends
// Get and then Mount, both without options. So a plugin cannot know that another size is wanted, as
// docs/operations.md says.
func TestOptionsComeOnce(t *testing.T) {
	a, e, driver := serve(t)
	create := func(name, size string) {
		t.Helper()
		e.Must(t, "volume", "create", "--driver", driver, "--opt", "size="+size, name)
	}
	create("db", "1GiB")
	a.wantCreates(t, "db map[size:1GiB]")

	create("db", "2GiB")
	e.Must(t, "run", "--rm", "--mount", "type=volume,source=db,target=/data,volume-driver="+driver+",volume-opt=size=3GiB", "drover-redis", "true")
	e.Restart(t)
	create("db", "4GiB")
	a.wantCreates(t, "db map[size:1GiB]")
	if got := e.Must(t, "volume", "inspect", "--format", "{{.Options}}", "db"); got != "map[size:1GiB]" {
		t.Errorf("the engine shows the options %s, want those of the first create", got)
	}

	// The same holds for an engine that does not know the volume, such as the engine of another node.
	a.mu.Lock()
	a.volumes["moved"] = true
	a.mu.Unlock()
	create("moved", "2GiB")
	a.wantCreates(t, "db map[size:1GiB]")
}

// wantCreates fails unless exactly these Creates arrived, with their options.
func (a *agent) wantCreates(t *testing.T, want ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.creates, want) {
		t.Errorf("Creates that came: %q, want %q", a.creates, want)
	}
}
