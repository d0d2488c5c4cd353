package projects

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestRefused: what is refused before anything is changed, and the errors.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*world)
		args []string
		kind error
		says string
	}{
		"no such project":  {args: []string{"blog"}, kind: dataset.ErrNotFound, says: "--file FILE"},
		"a path as a name": {args: []string{"a/b"}, kind: dataset.ErrInvalid, says: "docker compose ls"},
		"other files":      {set: func(w *world) { w.containers[1].Labels[labelFiles] = "/x.yaml" }, kind: dataset.ErrAmbiguous, says: "--file FILE --file FILE"},
		"no files": {set: func(w *world) {
			for i := range w.containers {
				delete(w.containers[i].Labels, labelFiles)
			}
		}, kind: dataset.ErrInvalid, says: "name the file: --file FILE"},
		"one volume by two names": {
			args: []string{"shop", "--volume", "data=x", "--volume", "shop_data=y"}, kind: dataset.ErrInvalid,
			says: "--volume names data twice, as data and as shop_data",
		},
		"a missing file": {set: func(w *world) { _ = os.Remove(filepath.Join(w.dir, "compose.yaml")) }, kind: dataset.ErrInvalid, says: "name the file"},
		"a link as file": {set: func(w *world) {
			_ = os.Rename(filepath.Join(w.dir, "compose.yaml"), filepath.Join(w.dir, "real"))
			_ = os.Symlink("real", filepath.Join(w.dir, "compose.yaml"))
		}, kind: dataset.ErrInvalid, says: "symbolic link"},
		"other mounts": {set: func(w *world) { w.containers[0].Mounts[0].Name = "old_data" }, kind: dataset.ErrConflict, says: "docker compose up -d first"},
		"an orphan": {set: func(w *world) {
			c := w.containers[0]
			c.Name, c.Service = "shop-old-1", "old"
			w.containers = append(w.containers, c)
		}, kind: dataset.ErrConflict, says: "docker stop shop-old-1"},
		"docker compose run": {set: func(w *world) {
			c := w.containers[0]
			c.Name, c.OneOff = "shop-db-run-1", true
			w.containers = append(w.containers, c)
		}, kind: dataset.ErrInUse, says: "docker stop shop-db-run-1"},
		"restarting":       {set: func(w *world) { w.containers[0].State = "restarting" }, kind: dataset.ErrConflict, says: "is restarting"},
		"unhealthy":        {set: func(w *world) { w.containers[0].Health = "unhealthy" }, kind: dataset.ErrConflict, says: "is unhealthy"},
		"another image":    {set: func(w *world) { w.image = "mariadb:10" }, kind: dataset.ErrConflict, says: "another image than docker compose"},
		"another variable": {set: func(w *world) { w.variable = "s3cret$2" }, kind: dataset.ErrConflict, says: "another value of variable P than"},
		"an edit during the question": {set: func(w *world) {
			lists := 0
			w.onContainers = func() {
				if lists++; lists == 2 {
					w.write("compose.yaml", shopFile+"# mine\n")
				}
			}
		}, kind: dataset.ErrConflict, says: "was edited since the plan"},
		"a start during the question": {set: func(w *world) {
			w.containers[0].State = "exited"
			lists := 0
			w.onContainers = func() {
				if lists++; lists == 2 {
					w.containers[0].State = "running"
				}
			}
		}, kind: dataset.ErrConflict, says: "were started or stopped since the plan"},
		"unknown profile":  {args: []string{"shop", "--profile", "glod", "--yes"}, kind: dataset.ErrInvalid, says: `./html: unknown profile "glod"`},
		"too large":        {set: func(w *world) { w.size = 1 }, kind: dataset.ErrNoSpace, says: "--volume NAME=@PROFILE"},
		"unknown volume":   {args: []string{"shop", "--volume", "dta=x"}, kind: dataset.ErrInvalid, says: "(available: "},
		"unknown skip":     {args: []string{"shop", "--skip", "dta"}, kind: dataset.ErrInvalid, says: "(available: "},
		"a file as volume": {args: []string{"shop", "--volume", "./nginx.conf=x"}, kind: dataset.ErrInvalid, says: "it is a single file"},
		"a bad volume":     {args: []string{"shop", "--volume", "data"}, kind: dataset.ErrInvalid, says: "NAME=SPEC"},
		"twice":            {args: []string{"shop", "--volume", "data=x", "--volume", "./html=x"}, kind: dataset.ErrInvalid, says: "chosen twice"},
		"no terminal":      {args: []string{"shop"}, kind: dataset.ErrInvalid, says: "use --yes"},
		"undo and plan":    {args: []string{"shop", "--undo", "--profile", "gold"}, kind: dataset.ErrInvalid, says: "--undo and --confirm take"},
		"leave and plan":   {args: []string{"shop", "--leave", "--profile", "gold"}, kind: dataset.ErrInvalid, says: "--leave"},
		"nothing to leave": {args: []string{"shop", "--leave"}, kind: dataset.ErrNotFound, says: "has nothing to move"},
		"compose fails":    {set: func(w *world) { w.fail["Config"] = dataset.Errorf(dataset.ErrConflict, "no compose") }, kind: dataset.ErrConflict, says: "no compose"},
		"an unsafe edit": {set: func(w *world) {
			w.write("compose.yaml", strings.Replace(shopFile, "  data:\n", "  data: &d {driver: local}\n", 1)+"  twin: *d\n")
		}, kind: dataset.ErrInvalid, says: "volumes.twin"},
		"a journal of another version": {set: func(w *world) { w.plant(`{"version": 9}`) }, kind: dataset.ErrUnsupported, says: "version 9"},
		"a damaged journal":            {set: func(w *world) { w.plant(`{`) }, kind: dataset.ErrCorrupt, says: "is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			if c.set != nil {
				c.set(w)
			}
			if c.args == nil {
				c.args = adopt
			}
			before := entries(t, w.dir)
			err := w.run(c.args...)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.says)
			}
			if after := entries(t, w.dir); after != before || len(w.noted) > 0 {
				t.Errorf("it changed %s to %s, and did %v", before, after, w.noted)
			}
		})
	}
}

// TestNotMoved: each reason why a mount is not moved.
func TestNotMoved(t *testing.T) {
	w := newWorld(t)
	sock := filepath.Join(w.dir, "a.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	outside := t.TempDir()
	for _, dir := range []string{"data", "data/sub", "with-mount", "shared", "seen"} {
		w.mkdir(filepath.Join(w.dir, dir))
	}
	w.mounted = []string{filepath.Join(w.dir, "with-mount", "disk")}
	w.local["nfs"] = Volume{Name: "nfs", Driver: "nfs"}
	w.local["common"] = Volume{Name: "common", Driver: "local"}
	w.mkdir(w.folder("local", "common"))
	w.containers = []Container{
		{Name: "blog-1", State: "exited", Project: "blog", Mounts: []Mount{{Type: "volume", Name: "common"}, {Type: "bind", Source: filepath.Join(w.dir, "shared")}}},
		{Name: "monitor", State: "running", Mounts: []Mount{{Type: "bind", Source: "/", ReadOnly: true}}},
	}
	w.write("compose.yaml", `services:
  a:
    image: x
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
      - {type: tmpfs, target: /tmp}
      - /anonymous
      - nfs:/nfs
      - common:/common
      - gone:/gone
      - foreign:/foreign
      - {type: cluster, source: c, target: /c}
volumes:
  nfs: {name: nfs}
  common: {name: common, external: true}
  gone: {external: true}
  foreign: {driver: rexray}
`)
	var plan Plan
	out := w.must("shop", "--file", filepath.Join(w.dir, "compose.yaml"), "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range plan.Skipped {
		got[s.Mounts[0]] = s.Reason
	}
	for mount, reason := range map[string]string{
		"a:/var/run": "a folder of the system", "a:/host": "a folder of the system", "a:/sock": "a socket", "a:/file": "a single file",
		"a:/etc/localtime": "a single file", "a:/null": "a device", "a:/outside": "read-only, and outside",
		"a:/data": "overlaps with ./data/sub", "a:/sub": "overlaps with ./data", "a:/with-mount": "another filesystem is mounted in it",
		"a:/missing": "does not exist yet", "a:/shared": "shared with container blog-1", "a:/tmp": "a tmpfs", "a:/anonymous": "anonymous volume",
		"a:/nfs": "the driver nfs", "a:/common": "shared with container blog-1", "a:/gone": "external, and does not exist",
		"a:/foreign": "the driver rexray", "a:/c": "type cluster",
	} {
		if !strings.Contains(got[mount], reason) {
			t.Errorf("%s: %q, want %q", mount, got[mount], reason)
		}
		delete(got, mount)
	}
	if len(got) > 0 || len(plan.Items) != 1 || plan.Items[0].Key != "seen" {
		t.Errorf("skipped too: %v; moved: %+v", got, plan.Items)
	}
}

// TestProjectFolder: a mount of the project's folder is not moved, and neither is what it shows.
func TestProjectFolder(t *testing.T) {
	w := newWorld(t)
	w.mkdir(filepath.Join(w.dir, "data"))
	w.write("compose.yaml", "services:\n  a:\n    image: x\n    volumes: ['.:/project', './data:/data']\n")
	err := w.run("shop", "--file", filepath.Join(w.dir, "compose.yaml"), "--dry-run")
	if out := w.out.String(); !errors.Is(err, dataset.ErrNotFound) || !strings.Contains(out, "it contains the Compose file") ||
		!strings.Contains(out, "it overlaps with ., which is mounted too") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestImageVolumeIsMentioned: the plan mentions a volume that only the image of a container declares.
func TestImageVolumeIsMentioned(t *testing.T) {
	w := shop(t)
	w.containers[0].Mounts = append(w.containers[0].Mounts, Mount{Type: "volume", Name: "a1b2", Target: "/var/lib/postgresql"})
	out := w.must("shop", "--dry-run")
	if !strings.Contains(out, ":/var/lib/postgresql") || !strings.Contains(out, "only the image declares it, and its data stays there") {
		t.Errorf("the plan is\n%s", out)
	}
}

// TestLongName: the error about a key from which no name of a volume can be made names the option that helps.
func TestLongName(t *testing.T) {
	w := newWorld(t)
	key := strings.Repeat("k", 142)
	w.write("compose.yaml", "services:\n  a:\n    image: x\n    volumes: ['"+key+":/data']\nvolumes:\n  "+key+": {}\n")
	err := w.run("shop", "--file", filepath.Join(w.dir, "compose.yaml"), "--dry-run")
	if !errors.Is(err, dataset.ErrInvalid) || !strings.HasSuffix(err.Error(), "(choose another name: --volume "+key+"=NAME)") {
		t.Errorf("%v", err)
	}
}

// TestNames: volumes, profiles and keys as the user chooses them.
func TestNames(t *testing.T) {
	w := shop(t)
	var plan Plan
	out := w.must("shop", "--profile", "silver", "--volume", "data=rows@gold", "--volume", "./html=@bronze", "--skip", "shop_later", "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range plan.Items {
		got = append(got, i.Key+" "+i.Spec)
	}
	if s := strings.Join(got, ", "); s != "html shop-html@bronze, data rows@gold" && s != "data rows@gold, html shop-html@bronze" {
		t.Errorf("got %s", s)
	}
}

// TestSymbolicLinks: a directory is moved although a symbolic link leads to it, and a container that uses the directory
// under another path shares it.
func TestSymbolicLinks(t *testing.T) {
	w := shop(t)
	disk := t.TempDir()
	for _, err := range []error{
		os.Rename(filepath.Join(w.dir, "html"), filepath.Join(disk, "html")),
		os.Symlink(filepath.Join(disk, "html"), filepath.Join(w.dir, "html")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.must(adopt...)
	for _, op := range w.operations {
		if op.Volume == "shop-html" && op.Path != filepath.Join(disk, "html") {
			t.Errorf("the path of the import is %s", op.Path)
		}
	}
	w.must("shop", "--undo", "--yes")
	second := filepath.Join(t.TempDir(), "media")
	if err := os.Symlink(disk, second); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{disk, second} {
		w.containers = append(w.containers, Container{Name: "other", State: "running", Mounts: []Mount{{Type: "bind", Source: path}}})
		if out := w.must("shop", "--dry-run"); !strings.Contains(out, "it is shared with container other") {
			t.Errorf("%s: the plan is\n%s", path, out)
		}
		w.containers = w.containers[:len(w.containers)-1]
	}
	if err := errors.Join(os.Remove(filepath.Join(w.dir, "html")), os.Symlink("/etc", filepath.Join(w.dir, "html"))); err != nil {
		t.Fatal(err)
	}
	w.containers = w.containers[:0]
	if out := w.must("shop", "--file", filepath.Join(w.dir, "compose.yaml"), "--dry-run"); !strings.Contains(out, "it is a folder of the system") {
		t.Errorf("the plan is\n%s", out)
	}
}

// TestEmptyDirectory: an empty directory becomes a volume that the engine does not fill from the image.
func TestEmptyDirectory(t *testing.T) {
	w := shop(t)
	if err := errors.Join(os.RemoveAll(filepath.Join(w.dir, "html")), os.Mkdir(filepath.Join(w.dir, "html"), 0o755)); err != nil {
		t.Fatal(err)
	}
	w.must(adopt...)
	want := strings.NewReplacer("html:/html:ro", "'html:/html:ro,nocopy'", "html:/html\n", "html:/html:nocopy\n").Replace(shopMoved)
	if got := w.read("compose.yaml"); got != want {
		t.Errorf("the Compose file is\n%s", got)
	}
}

// TestLeaveSharedVolume: a volume of Drover that another container uses, under another name, does not leave.
func TestLeaveSharedVolume(t *testing.T) {
	w := shop(t)
	w.must(adopt...)
	w.must("shop", "--confirm")
	w.containers = append(w.containers, Container{Name: "other", State: "running", Mounts: []Mount{
		{Type: "volume", Name: "unknown", Driver: "rexray"}, {Type: "volume", Name: "shop-data", Driver: "drover"},
	}})
	if out := w.must("shop", "--leave", "--dry-run"); !strings.Contains(out, "it is shared with container other") {
		t.Errorf("the plan is\n%s", out)
	}
	other := w.containers[len(w.containers)-1]
	w.containers = w.containers[:len(w.containers)-1]
	w.killAt = 1
	_ = w.run("shop", "--leave", "--yes")
	w.killAt = 0
	w.containers = append(w.containers, other)
	if err := w.run("shop", "--leave", "--yes"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "docker stop other") {
		t.Errorf("started meanwhile: %v", err)
	}
	w.containers = w.containers[:len(w.containers)-1]
	v := w.volumes["shop-data"]
	v.SharedMountDetails = []api.SharedMountDetail{{NodeName: "host-b", MountCount: 1}}
	w.volumes["shop-data"] = v
	if err := w.run("shop", "--leave", "--yes"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "on node host-b") {
		t.Errorf("mounted elsewhere: %v", err)
	}
	v.SharedMountDetails[0].MountCount = 0
	w.must("shop", "--leave", "--yes")
}
