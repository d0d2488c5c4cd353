package supportbundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/droverhq/drover/dataset"
)

// RedactYAML returns the settings of a file of YAML without its secrets and comments. Every value below a setting with
// the name of a secret is replaced, except the paths of files and programs that have the secret, true, false, and empty
// values. The same text in other settings is replaced, too. Aliases are replaced by the values that they refer to.
//
// RedactYAML fails with dataset.ErrInvalid, and returns nothing, if the text is not valid YAML: its secrets cannot be
// found then.
func RedactYAML(text []byte) ([]byte, error) {
	var documents []any
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // a byte order mark would be a part of the first name
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.UseOrderedMap(), yaml.AllowDuplicateMapKey())
	for {
		var document any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, dataset.Errorf(dataset.ErrInvalid,
				"%s is not valid YAML, so the secrets in it cannot be found: the file is left out", lineOf(err))
		}
		documents = append(documents, document)
	}
	var r yamlRedactor
	for i := range documents {
		documents[i] = r.redact("", false, documents[i])
	}
	var out bytes.Buffer
	for i := range documents {
		b, err := yaml.Marshal(r.redactCopies(documents[i]))
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(b)
	}
	return Redact(out.Bytes()), nil
}

// lineOf returns the line at which a text is not valid. The message of the error itself quotes the text.
func lineOf(err error) string {
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		return fmt.Sprintf("its line %d", syntax.GetToken().Position.Line)
	}
	return "the file"
}

// yamlRedactor redacts values of YAML, and collects the secrets that it has replaced.
type yamlRedactor struct{ secrets []string }

// redact returns the value of a setting without its secrets. If secret is set, the value is a part of a secret.
func (r *yamlRedactor) redact(name string, secret bool, value any) any {
	switch v := value.(type) {
	case yaml.MapSlice:
		for i, item := range v {
			key := fmt.Sprint(item.Key)
			v[i].Value = r.redact(key, secret || namesSecret(key), item.Value)
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.redact(name, secret, v[i])
		}
		return v
	case nil, bool:
		return v
	}
	text := fmt.Sprint(value)
	if !secret || redactValue(name+":", text) == text {
		return value
	}
	r.secrets = append(r.secrets, text)
	return redacted
}

// namesSecret reports whether the value of a setting with a name is a secret.
func namesSecret(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	return name == "key" || name == "keys" || containsAny([]byte(name), secretWords)
}

// minCopy is the shortest secret that is searched for within other texts. A shorter one can be a part of any word.
const minCopy = 6

// redactCopies returns a value without the secrets that were replaced elsewhere. Anchors and repeated settings make
// such copies.
func (r *yamlRedactor) redactCopies(value any) any {
	switch v := value.(type) {
	case yaml.MapSlice:
		for i, item := range v {
			v[i].Value = r.redactCopies(item.Value)
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.redactCopies(v[i])
		}
		return v
	case nil, bool:
		return v
	}
	text := fmt.Sprint(value)
	if slices.Contains(r.secrets, text) {
		return redacted
	}
	without := text
	for _, secret := range r.secrets {
		if len(secret) >= minCopy {
			without = strings.ReplaceAll(without, secret, redacted)
		}
	}
	if without != text {
		return without
	}
	return value
}
