package docs

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// An example is a Compose file from which people start.
type example struct {
	dir    string // below the root of the repository
	volume string // the first one that it makes
	size   string // of that volume
	put    string // what a reader might do next, and its output
	get    string
	more   []string // more commands, after which the checks of the volume still hold
}

func examplesOfCompose() []example {
	sql := func(service, query string) string {
		return "docker compose exec -T " + service + " mariadb -pexample --batch --skip-column-names -e '" + query + "'"
	}
	make3 := "create database shop; create table shop.orders (id int primary key); insert into shop.orders values (3)"
	return []example{
		{
			dir: "examples/mariadb", volume: "shop-db", size: "50GiB",
			put: sql("db", make3), get: sql("db", "select id from shop.orders"),
			more: []string{
				// As the comment at the top of the file says.
				"docker compose --profile dev up -d",
				sql("dev", "select id from shop.orders; drop table shop.orders"),
				"docker compose --profile dev rm -sf dev && docker volume rm shop-dev",
				"docker compose --profile dev up -d",
				sql("dev", "select id from shop.orders"),
			},
		},
		{
			dir: "examples/redis", volume: "redis-data", size: "2GiB",
			put: "docker compose exec -T redis redis-cli set orders 3", get: "docker compose exec -T redis redis-cli get orders",
		},
	}
}

// testExamples starts each Compose file of the repository, stops it and starts it again, with images of the names
// that a user would pull.
func testExamples(t *testing.T, e *engine.Engine) {
	files, err := filepath.Glob(filepath.Join(top, "examples/*/compose.yaml"))
	if err != nil || len(files) != len(examplesOfCompose()) {
		t.Fatalf("%d files in examples, and %d examples that are tested: %v", len(files), len(examplesOfCompose()), err)
	}
	w := begin(t, e)
	for _, x := range examplesOfCompose() {
		t.Run(x.dir, func(t *testing.T) { w.example(t, x) })
	}
	t.Run("examples/swarm", w.stack)
}

// stack checks what a Swarm would get, and has the volume made that each of its engines would request. Services and
// labels in a Swarm are tested in test/product.
func (w *world) stack(t *testing.T) {
	var stack struct {
		Services map[string]struct {
			Deploy struct {
				Replicas     int
				Placement    struct{ Constraints []string }
				UpdateConfig struct{ Order string } `yaml:"update_config"`
			}
		}
		Volumes map[string]struct {
			Name, Driver string
			DriverOpts   map[string]string `yaml:"driver_opts"`
		}
	}
	out := w.e.Must(t, "stack", "config", "--compose-file", filepath.Join(top, "examples/swarm/stack.yml"))
	require.NoError(t, yaml.Unmarshal([]byte(out), &stack))
	d, v := stack.Services["db"].Deploy, stack.Volumes["db"]
	if d.Replicas != 1 || d.UpdateConfig.Order != "stop-first" || len(d.Placement.Constraints) != 1 || !strings.HasPrefix(d.Placement.Constraints[0], "node.labels.drover.") {
		t.Errorf("%+v of\n%s", d, out)
	}
	args := []string{"volume", "create", "--driver", v.Driver}
	for key, value := range v.DriverOpts {
		args = append(args, "--opt", key+"="+value)
	}
	w.e.Must(t, append(args, v.Name)...)
	w.e.Must(t, "volume", "rm", v.Name)
}

func (w *world) example(t *testing.T, x example) {
	dir, err := filepath.Abs(filepath.Join(top, x.dir))
	require.NoError(t, err)
	w.cwd = dir
	// Port 0 is any free port, because the machine may use the port of the file.
	compose := "export DB_PORT=0 DEV_PORT=0 REDIS_PORT=0; "
	if r := w.e.Compose(t, dir, "config", "--quiet"); r.Exit != 0 {
		t.Fatal(r)
	}
	images := strings.Fields(w.e.Compose(t, dir, "--profile", "*", "config", "--images").Stdout)
	if len(images) == 0 {
		t.Fatal("no images")
	}
	for _, image := range images {
		name, _, _ := strings.Cut(image, ":")
		w.e.Must(t, "tag", "drover-"+name, image)
	}
	defer w.must(t, compose+"docker compose --profile '*' down -v --timeout 20")
	w.live(t, x, compose)
	var v api.Volume
	w.h.JSON(t, &v, "volume", "inspect", x.volume)
	if got := v.Size.String(); got != x.size {
		t.Errorf("volume %s has %s, want %s", x.volume, got, x.size)
	}
}

// live starts an example, stops it and starts it again. Its data must still be there.
func (w *world) live(t *testing.T, x example, compose string) {
	t.Helper()
	w.must(t, compose+"docker compose up -d")
	w.answers(t, compose+x.put)
	w.must(t, compose+"docker compose down", compose+"docker compose up -d")
	w.answers(t, compose+x.get)
	if out, _ := w.sh(t, compose+x.get); strings.TrimSpace(out) != "3" {
		t.Errorf("after down and up: %s", out)
	}
	for _, line := range x.more {
		if strings.Contains(line, " exec ") {
			w.answers(t, compose+line)
			continue
		}
		w.must(t, compose+line)
	}
}
