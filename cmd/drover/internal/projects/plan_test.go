package projects

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// makeContainer returns a container that runs and has one writable bind mount.
func makeContainer(name, project, source string) Container {
	return Container{container.Summary{
		Names: []string{"/" + name}, State: "running", Labels: map[string]string{labelProject: project},
		Mounts: []container.MountPoint{{Type: "bind", Source: source, RW: true}},
	}}
}

// TestRefused: what is refused before anything is changed, and the errors.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*world)
		args []string
		kind error
		says string
	}{
		"no such project":  {args: []string{"blog"}, kind: dataset.ErrNotFound, says: "in the project's folder"},
		"a path as a name": {args: []string{"a/b"}, kind: dataset.ErrNotFound, says: "docker compose ls"},
		"other files":      {set: func(w *world) { w.containers[1].Labels[labelFiles] = w.dir + "/compose.yml" }, says: "a single file"},
		"no files":         {set: func(w *world) { delete(w.containers[0].Labels, labelFiles) }, says: "a single file"},
		"standard input":   {set: func(w *world) { w.containers[0].Labels[labelFiles] = "-" }, says: "a single file"},
		"two files":        {set: func(w *world) { w.containers[0].Labels[labelFiles] += "," + w.dir + "/more.yaml" }, says: "a single file"},
		"a missing file":   {set: func(w *world) { _ = os.Remove(filepath.Join(w.dir, "compose.yaml")) }, kind: dataset.ErrConflict, says: "cannot read the files of project shop"},
		"an override file": {set: func(w *world) { w.write("compose.override.yaml", "# mine\n") }, says: "a single file"},
		"an earlier move": {set: func(w *world) { w.write("compose.override.yaml", marker+"\nvolumes: {data: {name: x}}\n") },
			kind: dataset.ErrConflict, says: "run docker compose up -d"},
		"another name":   {set: func(w *world) { w.rename("prod.yaml") }, says: "-f"},
		"another folder": {set: func(w *world) { w.rename("sub/compose.yaml") }, says: "-f"},
		"more in COMPOSE_FILE": {set: func(w *world) {
			w.finds = []string{filepath.Join(t.TempDir(), "more.yaml")}
			w.write(w.finds[0], "services: {db: {volumes: ['./nginx.conf:/x']}}\n")
		}, says: "COMPOSE_FILE"},
		"COMPOSE_FILE in .env": {set: func(w *world) { w.write(".env", "A=b\nCOMPOSE_FILE=compose.yaml\n") }, says: "COMPOSE_FILE"},
		"an override's effect": {set: func(w *world) { w.ignoresOverrides = true }, kind: dataset.ErrInvalid, says: `".services.cron.volumes" would differ`},
		"other mounts":         {set: func(w *world) { w.containers[0].Mounts[0].Name = "old_data" }, kind: dataset.ErrConflict, says: "run docker compose up -d"},
		"an orphan": {set: func(w *world) {
			c := makeContainer("shop-old-1", "shop", "")
			c.Labels[labelFiles], c.Labels[labelDir] = filepath.Join(w.dir, "compose.yaml"), w.dir
			w.containers = append(w.containers, c)
		}, kind: dataset.ErrConflict, says: "docker stop shop-old-1"},
		"docker compose run": {set: func(w *world) {
			c := makeContainer("shop-db-run-1", "shop", "")
			c.Labels[labelOneOff] = "True"
			w.containers = append(w.containers, c)
		}, kind: dataset.ErrConflict, says: "docker stop shop-db-run-1"},
		"restarting": {set: func(w *world) { w.containers[0].State = "restarting" }, kind: dataset.ErrConflict, says: "is paused, restarting, unhealthy"},
		"unhealthy": {set: func(w *world) { w.containers[0].Health = &container.HealthSummary{Status: "unhealthy"} },
			kind: dataset.ErrConflict, says: "is paused, restarting, unhealthy"},
		"another image":    {set: func(w *world) { w.image = "y" }, kind: dataset.ErrConflict, says: "another image"},
		"another variable": {set: func(w *world) { w.env = "P=s3cret$2" }, kind: dataset.ErrConflict, says: "sudo -E"},
		"an edit during the question": {set: func(w *world) {
			reads := 0
			w.onConfig = func() {
				if reads++; reads == 4 { // the plan reads the files three times
					w.write("compose.yaml", strings.Replace(shopFile, "a: b", "a: c", 1))
				}
			}
		}, kind: dataset.ErrConflict, says: "since the plan was made"},
		"a stop during the question": {set: func(w *world) {
			lists := 0
			w.onContainers = func() {
				if lists++; lists == 2 {
					w.containers[0].State = "exited"
				}
			}
		}, kind: dataset.ErrConflict, says: "since the plan was made"},
		"unknown profile":  {args: []string{"shop", "--profile", "glod", "--yes"}, kind: dataset.ErrInvalid, says: `/html: unknown profile "glod"`},
		"too large":        {set: func(w *world) { w.size = 1 }, kind: dataset.ErrNoSpace, says: "NAME=@PROFILE"},
		"unknown volume":   {args: []string{"shop", "--volume", "dta=x"}, kind: dataset.ErrInvalid, says: "no volume or directory dta"},
		"unknown skip":     {args: []string{"shop", "--skip", "dta"}, kind: dataset.ErrInvalid, says: "no volume or directory dta"},
		"a file as volume": {args: []string{"shop", "--volume", "./nginx.conf=x"}, kind: dataset.ErrInvalid, says: "it is a single file"},
		"no terminal":      {args: []string{"shop"}, kind: dataset.ErrInvalid, says: "use --yes"},
		"nothing to move":  {args: []string{"shop", "--skip", "data", "--skip", "html"}, kind: dataset.ErrNotFound, says: "has nothing to move"},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			if c.set != nil {
				c.set(w)
			}
			if c.args == nil {
				c.args = adopt
			}
			if c.kind == nil {
				c.kind = dataset.ErrUnsupported
			}
			before := entries(t, w.dir)
			err := w.run(c.args...)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.says)
			}
			if after := entries(t, w.dir); after != before || len(w.noted) > 0 || entries(t, w.journals) != "" {
				t.Errorf("it changed %s to %s, and did %v", before, after, w.noted)
			}
		})
	}
}

// rename gives the Compose file another name.
func (w *world) rename(name string) {
	path := filepath.Join(w.dir, name)
	w.mkdir(filepath.Dir(path))
	require.NoError(w.t, os.Rename(filepath.Join(w.dir, "compose.yaml"), path))
	for _, c := range w.containers {
		c.Labels[labelFiles] = path
	}
}

// TestNotMoved: each reason why a mount is not moved.
func TestNotMoved(t *testing.T) {
	w := newWorld(t)
	sock := filepath.Join(w.dir, "a.sock")
	l, err := net.Listen("unix", sock)
	require.NoError(t, err)
	defer l.Close()
	outside := t.TempDir()
	for _, dir := range []string{"data", "data/sub", "with-mount", "shared", "seen", "aside", "shown", "shown/sub", "orphaned"} {
		w.mkdir(filepath.Join(w.dir, dir))
	}
	require.NoError(t, setAside(filepath.Join(w.dir, "aside")))
	w.mounted = []string{filepath.Join(w.dir, "with-mount", "disk")}
	w.local["common"] = true
	w.mkdir(w.folder("local", "common"))
	blog := makeContainer("blog-1", "blog", filepath.Join(w.dir, "shared"))
	blog.Mounts = append(blog.Mounts, container.MountPoint{Type: "volume", Name: "common", RW: true})
	orphan := makeContainer("shop-old-1", "shop", filepath.Join(w.dir, "orphaned"))
	orphan.State, orphan.Labels[labelFiles], orphan.Labels[labelDir] = "exited", filepath.Join(w.dir, "compose.yaml"), w.dir
	monitor := makeContainer("monitor", "", "/")
	monitor.Mounts[0].RW = false
	w.containers = []Container{blog, orphan, monitor}
	w.write("compose.yaml", `services:
  a:
    volumes:
      - /var/run:/var/run
      - /:/host:ro
      - `+sock+`:/sock
      - ./compose.yaml:/file
      - /etc/localtime:/etc/localtime:ro
      - /dev/null:/null
      - `+outside+`:/outside:ro
      - ./data:/data
      - ./data/sub:/sub
      - ./with-mount:/with-mount
      - ./missing:/missing
      - ./shared:/shared
      - ./seen:/seen
      - ./orphaned:/orphaned
      - ./aside:/aside
      - {type: bind, source: ./shown, target: /shown, bind: {propagation: rslave}}
      - ./shown/sub:/shown/sub
      - {type: tmpfs, target: /tmp}
      - {type: volume, target: /anonymous}
      - common:/common
      - gone:/gone
      - drovers:/drovers
      - {type: cluster, source: c, target: /c}
volumes:
  common: {name: common, external: true}
  gone: {external: true}
  drovers: {name: shop-data@gold}
`)
	w.volumes["shop-data"] = w.volumes["x"]
	var j Journal
	t.Chdir(w.dir)
	err = w.run("shop", "--dry-run", "-o", "json")
	require.NoError(t, errors.Join(err, json.Unmarshal(w.out.Bytes(), &j)))
	got := map[string]string{}
	for _, s := range j.Skipped {
		got[s.Mounts[0]] = s.Reason
	}
	for mount, reason := range map[string]string{
		"a:/var/run": "a folder of the system", "a:/host": "a folder of the system", "a:/sock": "a socket or a device", "a:/file": "a single file",
		"a:/etc/localtime": "a single file", "a:/null": "a socket or a device", "a:/outside": "read-only, and outside",
		"a:/data": "overlaps with " + w.dir + "/data/sub", "a:/sub": "overlaps with " + w.dir + "/data", "a:/with-mount": "a filesystem is mounted at",
		"a:/missing": "no such file", "a:/shared": "shared with container blog-1", "a:/orphaned": "shared with container shop-old-1", "a:/tmp": "type tmpfs", "a:/anonymous": "it is anonymous",
		"a:/common": "shared with container blog-1", "a:/gone": "no such Docker volume", "a:/drovers": `has driver "drover"`, "a:/c": "type cluster",
		"a:/aside": "too many levels", "a:/shown": "a propagation", "a:/shown/sub": "overlaps with " + w.dir + "/shown",
	} {
		if !strings.Contains(got[mount], reason) {
			t.Errorf("%s: %q, want %q", mount, got[mount], reason)
		}
		delete(got, mount)
	}
	if len(got) > 0 || len(j.Items) != 1 || j.Items[0].Key != "seen" {
		t.Errorf("skipped too: %v; moved: %+v", got, j.Items)
	}
}

// TestProjectFolder: a mount of the project's folder is not moved, and neither is what it shows.
func TestProjectFolder(t *testing.T) {
	w := newWorld(t)
	t.Chdir(w.dir)
	w.mkdir(filepath.Join(w.dir, "data"))
	w.write("compose.yaml", "services:\n  a:\n    volumes: ['.:/project', './data:/data']\n")
	err := w.run("shop", "--dry-run")
	if out := w.out.String(); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(out, "it contains the Compose file") ||
		!strings.Contains(out, "it overlaps with "+w.dir+", which is mounted too") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestImageVolumeIsMentioned: the plan mentions a volume that only the image of a container declares.
func TestImageVolumeIsMentioned(t *testing.T) {
	w := shop(t)
	w.containers[0].Mounts = append(w.containers[0].Mounts, container.MountPoint{Type: "volume", Name: "a1b2", Destination: "/var/lib/postgresql"})
	out := w.must("shop", "--dry-run")
	if !strings.Contains(out, ":/var/lib/postgresql") || !strings.Contains(out, "only the image declares it") {
		t.Errorf("the plan is\n%s", out)
	}
}

// TestNames: volumes, profiles and keys as the user chooses them, and those that the command chooses.
func TestNames(t *testing.T) {
	w := shop(t)
	t.Chdir(w.dir)
	w.write("compose.yaml", strings.Replace(shopFile, "volumes:\n  data:", "volumes:\n  html: {}\n  data:", 1))
	out := w.must("shop", "--profile", "silver", "--volume", "data=rows@gold", "--volume", "./html=@bronze", "--dry-run")
	for _, want := range []string{`"html-2": {name: "shop-html-2@bronze"`, `"data": {name: "rows@gold"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	w.write("compose.yaml", "services:\n  db:\n    volumes: ['"+strings.Repeat("k", 142)+":/data']\n")
	w.containers = nil
	w.local["shop_"+strings.Repeat("k", 142)] = true
	w.mkdir(w.folder("local", "shop_"+strings.Repeat("k", 142)))
	w.write("compose.yaml", w.read("compose.yaml")+"volumes:\n  "+strings.Repeat("k", 142)+": {}\n")
	assert.ErrorIsf(t, w.run("shop", "--dry-run"), dataset.ErrInvalid, "a name that is too long")
}

// TestSymbolicLinks: a directory is moved although a symbolic link leads to it, and a container that uses the directory
// under another path shares it.
func TestSymbolicLinks(t *testing.T) {
	w := shop(t)
	t.Chdir(w.dir)
	disk := t.TempDir()
	html := filepath.Join(w.dir, "html")
	require.NoError(t, errors.Join(os.Rename(html, filepath.Join(disk, "html")), os.Symlink(filepath.Join(disk, "html"), html)))
	w.must(adopt...)
	if got := entries(t, disk); got != "html html.before-drover" {
		t.Errorf("the disk has %s", got)
	}
	w.must("shop", "--undo", "--yes")
	w.containers = append(w.containers, makeContainer("other", "", disk))
	if out := w.must("shop", "--dry-run"); !strings.Contains(out, "it is shared with container other") {
		t.Errorf("the plan is\n%s", out)
	}
	require.NoError(t, errors.Join(os.Remove(html), os.Symlink("/etc", html)))
	w.containers = nil
	if out := w.must("shop", "--dry-run"); !strings.Contains(out, "it is a folder of the system") {
		t.Errorf("the plan is\n%s", out)
	}
}

// TestEmptyDirectory: an empty directory becomes a volume that the engine does not fill from the image.
func TestEmptyDirectory(t *testing.T) {
	w := shop(t)
	require.NoError(t, os.Remove(filepath.Join(w.dir, "html/index.html")))
	w.must(adopt...)
	if got := w.read("compose.override.yaml"); strings.Count(got, `"volume":{"nocopy":true}`) != 2 {
		t.Errorf("the override file is\n%s", got)
	}
}

// TestAside: what is in the way is neither replaced nor lost.
func TestAside(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "data")
	for _, path := range []string{folder, folder + ".before-drover"} {
		require.NoError(t, os.Mkdir(path, 0o700))
	}
	assert.ErrorIsf(t, setAside(folder), os.ErrExist, "a folder is in the way")
	assert.ErrorIsf(t, putBack(folder), dataset.ErrConflict, "the folder exists again")
	if got := entries(t, dir); got != "data data.before-drover" {
		t.Errorf("the folder has %s", got)
	}
	require.NoError(t, os.Remove(folder+".before-drover"))
	// A crash left the link beside the folder.
	require.NoError(t, errors.Join(os.Symlink("data/x", folder+".before-drover"), setAside(folder), setAside(folder)))
	if _, err := os.Stat(folder); err == nil {
		t.Error("the folder can be used")
	}
	if err := errors.Join(putBack(folder), putBack(folder)); err != nil || entries(t, dir) != "data" || isLink(folder) {
		t.Errorf("%v: the folder has %s", err, entries(t, dir))
	}
}

// TestDifference: two models differ at each place but those that depend on the notation. No difference shows a value.
func TestDifference(t *testing.T) {
	const old = `{"name": "p", "x-base": {"volumes": ["./d:/d"]}, "services": {"a": {"environment": {"P": "s3cret"}, "volumes": [
		{"type": "bind", "source": "/p/d", "target": "/d", "bind": {"create_host_path": true, "selinux": "Z"}},
		{"type": "bind", "source": "/p/e", "target": "/e"}]}}, "volumes": {"v": {"name": "p_v"}}}`
	const moved = `{"name": "p", "x-base": {"volumes": ["k:/d"]}, "services": {"a": {"environment": {"P": "s3cret"}, "volumes": [
		{"type": "volume", "source": "k", "target": "/d", "bind": {"selinux": "Z"}, "volume": {}},
		{"type": "bind", "source": "/p/e", "target": "/e"}]}}, "volumes": {"v": {"name": "n@gold", "external": true}, "k": {"name": "d", "external": true}}}`
	items := []Item{{Key: "v", Spec: "n@gold"}, {Key: "k", Spec: "d", Dir: true, Source: "/p/d"}}
	parse := func(text string) model {
		m, err := parseModel([]byte(text))
		require.NoError(t, err)
		return m
	}
	for change, want := range map[string]string{
		"":                                  "",
		`"P": "s3cret" => "P": "other"`:     ".services.a.environment.P",
		`"/p/e" => "/p/f"`:                  ".services.a.volumes",
		`"target": "/d" => "target": "/x"`:  ".services.a.volumes",
		`{"name": "n@gold" => {"name": "n"`: ".volumes.v.name",
		`"name": "p", => "name": "q",`:      ".name",
		`"source": "/p/e", => "source": "/p/e", "read_only": true,`: ".services.a.volumes",
	} {
		from, to, _ := strings.Cut(change, " => ")
		m, err := parse(old).moved(items)
		if got := difference(m, parse(strings.Replace(moved, from, to, 1))); err != nil || got != want {
			t.Errorf("%s: %q, want %q, %v", change, got, want, err)
		}
	}
	for _, text := range []string{"[]", "s3cret", `{"services": {"a": "s3cret"}}`} {
		if _, err := parseModel([]byte(text)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
