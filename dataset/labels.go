package dataset

import (
	"maps"
	"slices"
)

// The limits of the labels of one volume or node.
const (
	maxLabels     = 64
	maxLabelValue = 1024 // bytes
)

// LabelChange changes the labels of a volume or node: it sets some and removes others.
type LabelChange struct {
	Set    map[string]string `json:"set,omitempty"`    // labels to set, by key; each replaces the one with its key
	Remove []string          `json:"remove,omitempty"` // keys of labels to remove
}

// Apply returns the changed labels. It does not change its argument. subject names the object in errors, such as
// "volume db". It fails with ErrInvalid if a key or a value is wrong, if nothing changes, if a key is both set and
// removed, or if there are too many labels, and with ErrNotFound if a label to remove does not exist. The error then
// lists the existing keys.
func (c LabelChange) Apply(subject string, labels map[string]string) (map[string]string, error) {
	if len(c.Set)+len(c.Remove) == 0 {
		return nil, Errorf(ErrInvalid, "%s: no label to change (KEY=VALUE sets a label, KEY- removes one)", subject)
	}
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	for _, key := range c.Remove {
		if _, set := c.Set[key]; set {
			return nil, Errorf(ErrInvalid, "%s: label %s is both set and removed", subject, Clip(key))
		}
		if _, exists := labels[key]; !exists {
			keys := slices.Sorted(maps.Keys(labels))
			return nil, Errorf(ErrNotFound, "%s has no label %q to remove (available: %s)%s", subject, Clip(key),
				FormatChoices(keys), Suggestion(key, keys))
		}
		delete(out, key)
	}
	for key, value := range c.Set {
		if err := checkLabelValue(key, value); err != nil {
			return nil, Errorf(ErrInvalid, "%s: %w", subject, err)
		}
		out[key] = value
	}
	if len(out) > maxLabels {
		return nil, Errorf(ErrInvalid, "%s: too many labels (%d at most)", subject, maxLabels)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// checkLabelValue fails with ErrInvalid if the key or the value of a label is wrong.
func checkLabelValue(key, value string) error {
	if err := CheckLabel(key); err != nil {
		return err
	}
	if len(value) > maxLabelValue {
		return Errorf(ErrInvalid, "label %s: value of %d bytes is too long (%d at most)", key, len(value),
			maxLabelValue)
	}
	return nil
}

// SetLabels sets Labels of a node from the labels of its drover.yaml and those that were set live. A live label
// replaces the label of drover.yaml with the same key.
func (n *Node) SetLabels(configured, live map[string]string) {
	n.Labels, n.LiveLabels, n.ConfiguredLabels = configured, nil, nil
	if len(live) == 0 {
		return
	}
	n.LiveLabels, n.ConfiguredLabels = live, configured
	n.Labels = maps.Clone(configured)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, live)
}

// LabelsOfFile returns the labels of drover.yaml that the node reported last.
func (n *Node) LabelsOfFile() map[string]string {
	if len(n.LiveLabels) == 0 {
		return n.Labels
	}
	return n.ConfiguredLabels
}
