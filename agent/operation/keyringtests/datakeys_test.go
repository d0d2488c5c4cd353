package keyring_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// sealing is a backend that says that it encrypts, and requests the keys that a real one would need.
type sealing struct {
	dir.Backend
	mu  sync.Mutex
	got map[uuid.UUID][]byte // the last data key of each dataset
}

func (s *sealing) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := s.Backend.Open(ctx, cfg)
	return &sealed{p, s, cfg.Keys}, err
}

func (s *sealing) key(id uuid.UUID) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[id]
}

type sealed struct {
	backends.Pool
	of   *sealing
	keys backends.Keys
}

func (p *sealed) Info() backends.Info {
	i := p.Pool.Info()
	i.Capabilities.Encryption, i.Capabilities.EnforcesSize, i.DefaultSize = true, true, dataset.GiB
	return i
}

// Resize requests the key that a real backend would need, and enlarges nothing.
func (p *sealed) Resize(ctx context.Context, id uuid.UUID, _ dataset.Size, _ *os.File) error {
	e, err := p.Stat(ctx, id)
	if err != nil {
		return err
	}
	return p.take(ctx, *e.Record)
}

func (p *sealed) Grow(context.Context, uuid.UUID, *os.File) error { return nil }

func (p *sealed) take(ctx context.Context, d dataset.Dataset) error {
	if d.Encryption == nil {
		return nil
	}
	key, err := p.keys.DataKey(ctx, d)
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.of.got == nil {
		p.of.got = map[uuid.UUID][]byte{}
	}
	p.of.got[d.ID] = key
	return err
}

func (p *sealed) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	if err := p.take(ctx, d); err != nil {
		return 0, err
	}
	return p.noted(ctx, d, func(d dataset.Dataset) (dataset.Size, error) { return p.Pool.Create(ctx, d) })
}

func (p *sealed) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, progress backends.Progress) (dataset.Size, error) {
	return p.noted(ctx, d, func(d dataset.Dataset) (dataset.Size, error) { return p.Pool.Clone(ctx, d, src, progress) })
}

// noted makes a dataset that is not encrypted, with the record of an encrypted one.
func (p *sealed) noted(ctx context.Context, d dataset.Dataset, makes func(dataset.Dataset) (dataset.Size, error)) (dataset.Size, error) {
	plain := d
	plain.Encryption, plain.Profile.Encryption, plain.Size = nil, dataset.KeySource{}, 0
	_, err := makes(plain)
	if err == nil {
		err = p.WriteRecord(ctx, d, true)
	}
	return d.Size, err
}

func (p *sealed) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	e, err := p.Stat(ctx, id)
	if err == nil && e.Record != nil {
		err = p.take(ctx, *e.Record)
	}
	if err != nil {
		return backends.Attachment{}, err
	}
	return p.Pool.Attach(ctx, id, opts)
}

var _ backends.Resizer = (*sealed)(nil)

type keyRig struct {
	*agenttest.Host
	kind         *sealing
	gold, silver string // key files
	program      string
	log          *bytes.Buffer
}

func newKeyRig(t *testing.T) *keyRig {
	t.Helper()
	keys := t.TempDir()
	k := &keyRig{kind: &sealing{}, gold: filepath.Join(keys, "gold"), silver: filepath.Join(keys, "silver"), log: &bytes.Buffer{}}
	k.write(t, k.gold, 1)
	k.write(t, k.silver, 2)
	k.program = filepath.Join(keys, "program")
	require.NoError(t, os.WriteFile(k.program, []byte(keyProgram), 0o700))
	k.write(t, k.program+".key", 5)
	k.Host = agenttest.NewWithProfiles(t, k.profiled(k.gold), func(c *agent.Config) {
		c.Backends = backends.NewRegistry(k.kind)
		log := logrus.New()
		log.SetOutput(k.log)
		log.SetLevel(logrus.DebugLevel)
		c.Log = log
	})
	return k
}

// keyProgram prints the key in the file beside it, or a new key each time, and records its requests.
const keyProgram = `#!/bin/sh
cat >> "$0.asked"
[ ! -e "$0.fickle" ] || exec head -c 64 /dev/urandom
exec cat "$0.key"
`

// profiled returns a profiles.yaml whose profile gold has its key in a file.
func (k *keyRig) profiled(gold string) []byte {
	return fmt.Appendf(nil, "default: plain\nprofiles:\n  plain: {}\n  gold: {encryption: {key_file: %s}}\n  silver: {encryption: {key_file: %s}}\n  run: {encryption: {exec: [%s]}}\n", gold, k.silver, k.program)
}

// reprofile makes control use another profiles.yaml.
func (k *keyRig) reprofile(src []byte) {
	k.Cluster.Profiles = src
	k.RestartControl()
}

// asked returns the datasets for which the program was called since the last call of asked.
func (k *keyRig) asked() (of []string) {
	k.T.Helper()
	text, err := os.ReadFile(k.program + ".asked")
	if err == nil {
		err = os.Remove(k.program + ".asked")
	}
	if err != nil {
		k.T.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var ask struct{ Dataset string }
		if err := json.Unmarshal([]byte(line), &ask); err != nil {
			k.T.Fatal(err)
		}
		if ask.Dataset != uuid.Nil.String() { // a start checks whether the key is available
			of = append(of, ask.Dataset)
		}
	}
	slices.Sort(of)
	return slices.Compact(of)
}

func (k *keyRig) secret(n byte) []byte {
	return bytes.Repeat([]byte{'k', n, 'e', n + 'a', 'y', n + 7, '!', n + 'A'}, 8)
}

func (k *keyRig) write(t *testing.T, path string, n byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, k.secret(n), 0o600))
}

// encrypted makes a volume of an encrypted profile.
func (k *keyRig) encrypted(spec string) dataset.Dataset {
	k.T.Helper()
	if err := k.Create(k.T.Context(), spec, nil); err != nil {
		k.T.Fatal(err)
	}
	return k.known(spec)
}

func (k *keyRig) known(spec string) dataset.Dataset {
	k.T.Helper()
	name, _, _ := strings.Cut(spec, "@")
	d, ok := k.Cache.Volume(name)
	if !ok || d.Encryption == nil {
		k.T.Fatalf("%s is not known as encrypted: %+v", name, d)
	}
	return d
}

// opens mounts and unmounts a volume.
func (k *keyRig) opens(spec string) error {
	k.T.Helper()
	_, err := k.Mount(k.T.Context(), spec, "id")
	if err == nil {
		err = k.Unmount(k.T.Context(), spec, "id")
	}
	return err
}

// refused fails unless err is of kind forbidden and contains the texts.
func (k *keyRig) refused(err error, says ...string) {
	k.T.Helper()
	if dataset.KindOf(err) != dataset.ErrForbidden {
		k.T.Fatalf("got %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			k.T.Errorf("%v does not say %q", err, s)
		}
	}
}

// rekey makes the agent carry out a rekey that control has planned.
func (k *keyRig) rekey(name, oldKey string) error {
	k.T.Helper()
	req := api.Request{ID: uuid.New(), Kind: dataset.OpRekey, Volume: name, Path: oldKey}
	p, err := k.Control.Plan(k.T.Context(), k.Node(), req)
	if err != nil {
		return err
	}
	_, err = k.Execute(k.T.Context(), &host.Job{}, *p.Operation)
	return err
}

// A volume gets a data key when it is created, and a clone gets that of its source, wrapped for the clone. A rekey
// changes only the record.
func TestDataKeyIsCreatedClonedAndRewrapped(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	data := bytes.Clone(k.kind.key(d.ID))
	if len(data) != 64 {
		t.Fatalf("the pool got %d bytes", len(data))
	}
	if e, err := k.Pool().Stat(t.Context(), d.ID); err != nil || e.Record.Encryption == nil || !bytes.Equal(e.Record.Encryption.Wrapped, d.Encryption.Wrapped) {
		t.Fatalf("beside the data: %+v, %v", e.Record, err)
	}
	other := k.encrypted("other@gold")
	if bytes.Equal(k.kind.key(other.ID), data) {
		t.Fatal("two volumes have one data key")
	}
	if err := k.opens("db@gold"); err != nil || !bytes.Equal(k.kind.key(d.ID), data) {
		t.Fatal(err)
	}
	copied := k.encrypted("copy@snapshot-" + d.ID.String()[:8])
	if copied.Encryption.ID != d.Encryption.ID || bytes.Equal(copied.Encryption.Wrapped, d.Encryption.Wrapped) {
		t.Errorf("a clone has %+v, its source %+v", copied.Encryption, d.Encryption)
	}
	if err := k.opens("copy"); err != nil || !bytes.Equal(k.kind.key(copied.ID), data) {
		t.Error("a clone is opened by another data key", err)
	}

	// The file is overwritten: with a copy of it the data key is wrapped again.
	old := filepath.Join(filepath.Dir(k.gold), "old")
	k.write(t, old, 1)
	k.write(t, k.gold, 3)
	before := d.Encryption.KeyID
	k.refused(k.opens("db@gold"), before, "rekey")
	k.refused(k.rekey("db", ""), before)
	k.refused(k.rekey("db", k.silver), before)
	for range 2 { // the second time nothing changes
		require.NoError(t, k.rekey("db", old))
	}
	now := k.known("db")
	if now.Encryption.KeyID == before || now.Encryption.ID != d.Encryption.ID {
		t.Errorf("after the rekey: %+v", now.Encryption)
	}
	if err := k.opens("db@gold"); err != nil || !bytes.Equal(k.kind.key(d.ID), data) {
		t.Error("after the rekey it is opened by another data key", err)
	}
	k.refused(k.opens("other@gold"), other.Encryption.KeyID) // nobody rekeyed it
	k.nowhere(data, k.secret(1), k.secret(2), k.secret(3))
}

// nowhere fails if one of the secrets is in the log, in the state, in the pool or in the findings of doctor.
func (k *keyRig) nowhere(secrets ...[]byte) {
	k.T.Helper()
	found, err := k.Doctor(k.T.Context())
	if err != nil {
		k.T.Fatal(err)
	}
	k.Jobs.Close(func() {}) // nobody logs any more
	places := map[string][]byte{"the log": k.log.Bytes(), "doctor": fmt.Append(nil, found)}
	if err := filepath.WalkDir(k.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			places[path], err = os.ReadFile(path)
		}
		return err
	}); err != nil {
		k.T.Fatal(err)
	}
	for place, text := range places {
		for i, s := range secrets {
			for _, form := range []string{string(s), hex.EncodeToString(s), base64.StdEncoding.EncodeToString(s), fmt.Sprint(s)} {
				if bytes.Contains(text, []byte(form)) {
					k.T.Errorf("secret %d is in %s", i, place)
				}
			}
		}
	}
	if len(places) < 4 || len(k.log.Bytes()) == 0 {
		k.T.Errorf("looked at %d places only, the log has %d bytes", len(places), k.log.Len())
	}
}

// A missing key is reported before anything is created.
func TestMissingKeyIsReportedBeforeCreate(t *testing.T) {
	k := newKeyRig(t)
	require.NoError(t, os.Chmod(k.gold, 0o644))
	k.refused(k.Create(t.Context(), "db@gold", nil), "chmod 600 "+k.gold)
	if list, err := k.Pool().List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("the pool has %+v, %v", list, err)
	}
	require.NoError(t, os.Remove(k.gold))
	k.refused(k.Create(t.Context(), "db@gold", nil), "not found", "/dev/urandom")
	k.write(t, k.gold, 1)
	d := k.encrypted("db@gold")
	require.NoError(t, os.Remove(k.gold))
	k.refused(k.opens("db@gold"), "not found", d.Encryption.KeyID)
	found, err := k.Doctor(t.Context())
	if err != nil || !slices.ContainsFunc(found, func(f api.Finding) bool { return f.Subject == "encryption" && f.Level == api.LevelOK }) {
		t.Errorf("the pool can encrypt, and doctor says %s", fmt.Sprint(found))
	}
	if err := k.Create(t.Context(), "clear@plain", nil); err != nil {
		t.Error(err)
	}
}

// The encryption of a volume never changes: another profile is refused, with the commands that copy the volume. A
// change of the key keeps the dataset.
func TestEncryptionOfDatasetNeverChanges(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	require.NoError(t, k.Create(t.Context(), "clear", nil))
	set := func(name, profile string) error {
		_, err := k.Control.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: name, Profile: profile})
		return err
	}
	for volume, profile := range map[string]string{"clear": "gold", "db": "plain"} {
		err := set(volume, profile)
		copies := fmt.Sprintf("drover volume export %s | drover volume import NEW@%s --from -", volume, profile)
		if dataset.KindOf(err) != dataset.ErrInvalid || !strings.Contains(err.Error(), copies) {
			t.Errorf("volume %s to profile %s: %v", volume, profile, err)
		}
	}
	require.NoError(t, set("db", "silver"))
	require.NoError(t, k.rekey("db", ""))
	v, err := k.Control.Volume(t.Context(), "db")
	if err != nil || v.Encryption.KeyID == d.Encryption.KeyID || v.Profile.Encryption.KeyFile != k.silver {
		t.Errorf("after another profile and a rekey: %+v, %v", v.Encryption, err)
	}
	if err := k.rekey("clear", ""); dataset.KindOf(err) != dataset.ErrUnsupported {
		t.Errorf("rekey of a volume that is not encrypted: %v", err)
	}
	err = k.Create(t.Context(), "clear2@gold", map[string]string{"from": "clear"})
	if dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("encrypted from a clear one: %v", err)
	}
}

// lies returns the content of the pool and the records: for each path the content of the file, and all volumes.
func (k *keyRig) lies() map[string]string {
	k.T.Helper()
	has := map[string]string{}
	err := filepath.WalkDir(k.Pool().Info().Path, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var text []byte
		if e.Type().IsRegular() {
			text, err = os.ReadFile(path)
		}
		has[path] = string(text)
		return err
	})
	if err != nil {
		k.T.Fatal(err)
	}
	volumes, err := k.Control.Volumes(k.T.Context(), api.Page{})
	if err != nil {
		k.T.Fatal(err)
	}
	for i := range volumes.Items {
		volumes.Items[i].Status = nil // the last report of its agent
	}
	text, err := json.Marshal(volumes.Items)
	if err != nil {
		k.T.Fatal(err)
	}
	has["volumes"] = string(text)
	return has
}

// resize makes the agent resize a volume as control has planned it.
func (k *keyRig) resize(name, size string) error {
	k.T.Helper()
	p, err := k.Control.Plan(k.T.Context(), k.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: name, Size: size})
	if err != nil || p.Operation == nil { // the volume has that size already
		return err
	}
	_, err = k.Execute(k.T.Context(), &host.Job{}, *p.Operation)
	return err
}

// Each operation that needs a key is refused without the key, or with another one, before anything is changed. The
// error says what to do.
func TestOperationsWithoutKeyChangeNothing(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	d.Home = uuid.New() // for the move to this node
	k.encrypted("copied@gold")
	acts := map[string]func() error{
		"create": func() error { return k.Create(t.Context(), "new@gold", nil) },
		"clone":  func() error { return k.Create(t.Context(), "clone@gold", map[string]string{"from": "copied"}) },
		"clone by another key": func() error {
			return k.Create(t.Context(), "clone@silver", map[string]string{"from": "copied"})
		},
		"mount":                   func() error { return k.opens("db") },
		"resize":                  func() error { return k.resize("db", "2GiB") },
		"rekey":                   func() error { return k.rekey("db", "") },
		"rekey by the wrong file": func() error { return k.rekey("db", k.silver) },
		"move": func() error {
			op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", DatasetID: d.ID, DatasetRecord: &d, OtherNode: d.Home}
			_, err := k.Move(t.Context(), &host.Job{}, &op)
			return err
		},
	}
	for _, c := range []struct {
		name string
		do   func() error
		says string
		not  string // the operation that does not need that key
	}{
		{"missing", func() error { return os.Remove(k.gold) }, "not found (", ""},
		{"open to others", func() error { return os.Chmod(k.gold, 0o644) }, "chmod 600 " + k.gold, ""},
		{"cut off", func() error { return os.Truncate(k.gold, 7) }, "a key has 32 to", ""},
		{"another", func() error { k.write(t, k.gold, 3); return nil }, "put that key back", "create"},
	} {
		for name, act := range acts {
			if name == c.not {
				continue
			}
			require.NoError(t, c.do())
			before := k.lies()
			for range 2 {
				err := act()
				if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s, the key is %s: %v", name, c.name, err)
				}
			}
			if after := k.lies(); !maps.Equal(before, after) {
				t.Errorf("%s, the key is %s: it was %q, and is %q", name, c.name, before, after)
			}
			require.NoError(t, os.RemoveAll(k.gold))
			k.write(t, k.gold, 1)
		}
	}
	for name, err := range map[string]error{"db": k.opens("db"), "copied": k.opens("copied"), "larger": k.resize("db", "2GiB")} {
		if err != nil {
			t.Errorf("%s with its key: %v", name, err)
		}
	}
}
