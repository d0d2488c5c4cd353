package profiles

import (
	"path/filepath"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// encryption reads {key_file: /etc/drover/keys/gold} or {exec: [program, …], timeout: 10s}.
func encryption(n strictyaml.Node, k *dataset.KeySource) error {
	keys, err := n.Keys([]string{"key_file", "exec", "timeout"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	file, hasFile := keys["key_file"]
	program, hasProgram := keys["exec"]
	if hasFile == hasProgram {
		bad.Add(n.Errorf("expected the source of the key: {key_file: /etc/drover/keys/gold}, or a program that " +
			"prints it: {exec: [/usr/local/sbin/drover-key], timeout: 10s}"))
	}
	if hasFile {
		bad.Add(absolute(file, &k.KeyFile))
	}
	if hasProgram {
		k.Timeout = dataset.DefaultKeyTimeout
		bad.Add(keyProgram(program, k))
	}
	if v, ok := keys["timeout"]; ok {
		if !hasProgram {
			bad.Add(v.KeyErrorf("it applies only to exec"))
		} else if bad.Add(duration(v, &k.Timeout)) && (k.Timeout == 0 || k.Timeout > dataset.MaxKeyTimeout) {
			bad.Add(v.Errorf("expected more than 0, and %s at most", dataset.MaxKeyTimeout))
		}
	}
	return bad.Err()
}

func absolute(n strictyaml.Node, into *string) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	if !filepath.IsAbs(s) || filepath.Clean(s) != s {
		return n.Errorf("bad path %q: expected an absolute one without . and .., such as "+
			"/etc/drover/keys/gold", dataset.Clip(s))
	}
	*into = s
	return nil
}

func keyProgram(n strictyaml.Node, k *dataset.KeySource) error {
	items, err := n.Items()
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	for _, item := range items {
		s, err := item.String()
		bad.Add(err)
		k.Exec = append(k.Exec, s)
	}
	if len(k.Exec) == 0 || !filepath.IsAbs(k.Exec[0]) {
		bad.Add(n.Errorf("expected a program by its absolute path, such as [/usr/local/sbin/drover-key]"))
	}
	return bad.Err()
}
