// What Argo CD makes of PyTorchJobs: reads argocd-cm (file of the first argument) as Argo CD itself reads it, an
// Application (the second), whose fields must all be known, and a JSON list of objects on stdin; prints for each the
// health and the object without the fields that a diff ignores.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/argo-cd/v3/util/settings"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

type verdict struct {
	Status   string         `json:"status"`
	Message  string         `json:"message"`
	Compared map[string]any `json:"compared"`
}

func main() {
	configMap, application, objects := &corev1.ConfigMap{}, &v1alpha1.Application{}, []map[string]any{}
	read(os.Args[1], configMap)
	read(os.Args[2], application)
	check(json.NewDecoder(os.Stdin).Decode(&objects))

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "argocd-secret", Namespace: configMap.Namespace}}
	client := fake.NewClientset(configMap, secret)
	overrides, err := settings.NewSettingsManager(context.Background(), client, configMap.Namespace).GetResourceOverrides()
	check(err)
	ignore, err := normalizers.NewIgnoreNormalizer(application.Spec.IgnoreDifferences, overrides, normalizers.IgnoreNormalizerOpts{})
	check(err)

	verdicts := []verdict{}
	for _, content := range objects {
		object := &unstructured.Unstructured{Object: content}
		health, err := lua.ResourceHealthOverrides(overrides).GetResourceHealth(object)
		check(err)
		check(ignore.Normalize(object))
		if health == nil {
			log.Fatalf("no health check for %s", object.GroupVersionKind())
		}
		verdicts = append(verdicts, verdict{string(health.Status), health.Message, object.Object})
	}
	check(json.NewEncoder(os.Stdout).Encode(verdicts))
}

func read(path string, into any) {
	text, err := os.ReadFile(path)
	check(err)
	check(yaml.UnmarshalStrict(text, into))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
