package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/lan"
)

// TestOptionsComeOnce: the engine sends options only with the Create of a new name. For an existing volume it sends
// Get and then Mount, both without options. So a plugin cannot know that another size is wanted, as
// docs/operations.md says.
func TestOptionsComeOnce(t *testing.T) {
	a, e, driver := serveOn(t, engine.Options{})
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

const stack = `version: "3.8"
services:
  app:
    image: drover-redis
    command: [sleep, infinity]
    stop_signal: KILL
    networks: [host]
    volumes: ["data:/data"]
networks:
  host: {external: true, name: host}
volumes:
  data: {name: data, driver: DRIVER, driver_opts: {size: SIZE}}
`

// TestOptionsOfAStack: a stack that is deployed again with another size gets new tasks. The engine is asked to create
// their volumes with the new options, and sends the plugin none of them.
func TestOptionsOfAStack(t *testing.T) {
	m := lan.New(t).Machine("alone", nil)
	a, e, driver := serveOn(t, engine.Options{On: m})
	e.Must(t, "volume", "create", "--driver", driver, "known") // a Swarm knows of plugins that its engine has used
	e.Must(t, "swarm", "init", "--advertise-addr", m.IP)
	a.set("", nil)

	file := filepath.Join(t.TempDir(), "stack.yaml")
	for i, size := range []string{"1GiB", "2GiB"} {
		text := strings.NewReplacer("DRIVER", driver, "SIZE", size).Replace(stack)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		e.Must(t, "stack", "deploy", "--resolve-image", "never", "--compose-file", file, "shop")
		await(t, "the task with "+size+" runs", func() error {
			out := e.Must(t, "service", "ps", "--no-trunc", "--filter", "desired-state=running", "--format", "{{.CurrentState}} {{.Error}}", "shop_app")
			if n := a.asked("Mount"); n <= i || !strings.HasPrefix(out, "Running") {
				return fmt.Errorf("%d mounts; %s", n, out)
			}
			return nil
		})
		wants := e.Must(t, "service", "inspect", "--format", "{{(index .Spec.TaskTemplate.ContainerSpec.Mounts 0).VolumeOptions.DriverConfig.Options}}", "shop_app")
		if wants != "map[size:"+size+"]" {
			t.Errorf("the service has %s, want size %s", wants, size)
		}
	}
	a.wantCreates(t, "known map[]", "data map[size:1GiB]")
	e.Must(t, "stack", "rm", "shop")
	await(t, "its containers are gone", func() error {
		if out := e.Must(t, "ps", "-aq"); out != "" {
			return fmt.Errorf("there are %s", out)
		}
		return nil
	})
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

// await repeats f until it succeeds.
func await(t *testing.T, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
