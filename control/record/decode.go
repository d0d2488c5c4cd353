package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// Decode reads the value of a key into v. If the value cannot be read or belongs to another key, it fails with
// dataset.ErrCorrupt, and the error names the key: a damaged value must not look absent.
func Decode(key string, value []byte, v any) error {
	err := dataset.DecodeRecord(value, v)
	if err == nil {
		err = checkBelongs(key, v)
	}
	if err != nil {
		return Damaged(key, err)
	}
	return nil
}

// DecodeClaim returns the UUID in a claim, the value of a key. It fails as Decode does. A list reads thousands of
// claims. So DecodeClaim uses the JSON parser only for a claim that does not have the exact form that Put writes.
func DecodeClaim(key string, value []byte) (uuid.UUID, error) {
	const begin, end, length = `{"id":"`, `"}`, 36
	text, _ := bytes.CutPrefix(value, []byte(begin))
	if len(begin)+length+len(end) == len(value) && string(text[length:]) == end {
		if id, err := uuid.ParseBytes(text[:length]); err == nil && id != uuid.Nil {
			return id, nil
		}
	}
	var c Claim
	err := Decode(key, value, &c)
	return c.ID, err
}

// Damaged returns the error for a value that cannot be read.
func Damaged(key string, err error) error {
	return dataset.Errorf(dataset.ErrCorrupt, "store: value of %s is damaged: %w", key, err)
}

// checkBelongs checks that a value belongs to its key, and that the fields that every decision needs are set.
func checkBelongs(key string, v any) error {
	want := key
	switch v := v.(type) {
	case *Claim:
		if v.ID == uuid.Nil {
			return errors.New("its target is missing")
		}
	case *UUIDPointer:
		if v.Dataset == uuid.Nil {
			return errors.New("its target is missing")
		}
	case *dataset.Dataset:
		want = DatasetKey(v.ID)
		if err := checkComplete(*v); err != nil {
			return err
		}
	case *dataset.Summary:
		want = DatasetKey(v.ID)
		if err := checkComplete(v.Dataset()); err != nil {
			return err
		}
	case *dataset.Snapshot:
		want = SnapshotKey(v.Dataset, v.ID)
	case *dataset.Lease:
		want = LeaseKey(v.Dataset)
	case *dataset.Copy:
		want = CopyKey(v.Node, v.Dataset)
	case *dataset.Node:
		want = NodeKey(v.ID)
	case *dataset.Facts:
		want = FactsKey(v.Node)
	case *dataset.Pool:
		want = PoolKey(v.ID)
	case *Generation:
		want = GenerationKey(v.Pool)
	case *dataset.Repository:
		want = RepositoryKey(v.Name)
	case *Backups:
		want = BackupsKey(v.Dataset)
	case *Parents:
		want = ParentsKey(v.Dataset)
	case *Verifications:
		want = VerificationsKey(v.Dataset)
	case *DamagedBackups:
		want = DamagedKey(v.Dataset)
	case *Export:
		want = ExportKey(v.Repository)
	case *dataset.Operation:
		want = OperationKey(v.ID)
	case *EndedOperation:
		want = OperationKey(v.ID)
	}
	if want != key {
		return fmt.Errorf("it is the value of another key, %.100s", want)
	}
	return nil
}

func checkComplete(d dataset.Dataset) error {
	switch d.State {
	case dataset.StateReady, dataset.StatePurging:
	case dataset.StateTrashed:
		if d.Trash == nil {
			return errors.New("it is in the trash, but the time of deletion is missing")
		}
	default:
		return fmt.Errorf("unknown state %.40q", d.State)
	}
	return nil
}

// ParseKey returns the UUID that follows prefix in a key. It fails with dataset.ErrCorrupt if no UUID follows.
func ParseKey(key, prefix string) (uuid.UUID, error) {
	text := strings.TrimPrefix(key, prefix)
	id, err := uuid.Parse(text)
	if err == nil && id.String() != text {
		err = errors.New("its UUID has an unusual form")
	}
	if err != nil {
		return id, dataset.Errorf(dataset.ErrCorrupt, "store: key %.200s: %w", key, err)
	}
	return id, nil
}
